#include "flash_attention_settings.h"

#include <math.h>

namespace omfuse {
namespace {

const char kFix[] = "; compile the model with `omfuse compile`, which writes the full node";

struct NameRule {
  const char* name;
  const char* otherwise;  // nullptr: the value of `layout`
  const char* allowed[3];
};

const NameRule kNames[] = {
    {"layout", "BNSD", {"BNSD", "BSND", "BSH"}},
    {"out_layout", nullptr, {"BNSD", "BSND", "BSH"}},
    {"causal", "none", {"none", "top_left", "bottom_right"}},
    {"masked_rows", "nan", {"nan", "zero", "uniform"}},
    {"inner_precision", "fp32", {"fp32", "fp16", "fp32"}},
};

struct NumberRule {
  const char* name;
  int64_t otherwise, least;
};

const NumberRule kNumbers[] = {
    {"window_left", -1, -1},
    {"window_right", -1, -1},
    {"with_lse", 0, 0},
};

bool ReadNames(const NodeAttributes& node, OperatorSettings* settings, std::string* why) {
  std::string layout = "BNSD";
  for (const NameRule& rule : kNames) {
    const NodeAttribute* found = node.Find(rule.name);
    const std::string value = found ? found->s : rule.otherwise ? rule.otherwise : layout;
    if (value != rule.allowed[0] && value != rule.allowed[1] && value != rule.allowed[2]) {
      *why = std::string("attribute ") + rule.name + " is '" + value + "', allowed are " +
             rule.allowed[0] + ", " + rule.allowed[1] + ", " + rule.allowed[2] + kFix;
      return false;
    }
    if (std::string(rule.name) == "layout") layout = value;
    settings->names.push_back(std::make_pair(rule.name, value));
  }
  return true;
}

bool ReadHeads(const NodeAttributes& node, OperatorSettings* settings, std::string* why) {
  const NodeAttribute* heads = node.Find("num_heads");
  const NodeAttribute* kv_heads = node.Find("num_kv_heads");
  if (heads == nullptr) {
    *why = std::string("attribute num_heads is missing") + kFix;
    return false;
  }
  const int64_t kv = kv_heads ? kv_heads->i : heads->i;
  if (heads->i < 1 || kv < 1 || heads->i % kv != 0) {
    *why = "num_heads is not a positive multiple of num_kv_heads";
    return false;
  }
  settings->integers.push_back(std::make_pair("num_heads", heads->i));
  settings->integers.push_back(std::make_pair("num_kv_heads", kv));
  return true;
}

// scale and softcap come as a list: the parser rounds scalar floats to six digits.
bool ReadScale(const NodeAttributes& node, OperatorSettings* settings, std::string* why) {
  const NodeAttribute* exact = node.Find("scale_value");
  if (exact == nullptr || exact->floats.empty() || exact->floats.size() > 2) {
    *why = std::string("attribute scale_value, the list [scale, softcap], is missing") + kFix;
    return false;
  }
  const float scale = exact->floats[0];
  const float softcap = exact->floats.size() > 1 ? exact->floats[1] : 0.0f;
  if (!isfinite(scale) || !isfinite(softcap) || softcap < 0) {
    *why = "scale must be finite, softcap finite and not negative";
    return false;
  }
  settings->floats.push_back(std::make_pair("scale", scale));
  settings->floats.push_back(std::make_pair("softcap", softcap));
  return true;
}

}  // namespace

bool ReadNode(const std::string& json, OperatorSettings* settings, std::string* why) {
  NodeAttributes node;
  if (!node.Parse(json, why) || !ReadHeads(node, settings, why) ||
      !ReadScale(node, settings, why) || !ReadNames(node, settings, why)) {
    return false;
  }
  for (const NumberRule& rule : kNumbers) {
    const NodeAttribute* found = node.Find(rule.name);
    const int64_t value = found ? found->i : rule.otherwise;
    if (value < rule.least) {
      *why = std::string("attribute ") + rule.name + " is too small" + kFix;
      return false;
    }
    settings->integers.push_back(std::make_pair(rule.name, value));
  }
  return true;
}

}  // namespace omfuse
