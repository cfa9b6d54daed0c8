#include "operands.h"

#include <stdio.h>
#include <string.h>

#include <sstream>

namespace omfuse {
namespace {

// The place of a text in a list of names is its code; -1 when it is not there.
int32_t CodeOf(const char* text, const char* const* names, int32_t count) {
  for (int32_t i = 0; text != nullptr && i < count; ++i) {
    if (strcmp(text, names[i]) == 0) return i;
  }
  return -1;
}

const char* const kLayouts[] = {"BNSD", "BSND", "BSH"};
const char* const kCausals[] = {"none", "top_left", "bottom_right"};
const char* const kRows[] = {"nan", "zero", "uniform"};
const char* const kPrecisions[] = {"fp32", "fp16"};

class Reader {
 public:
  Reader(const gert::RuntimeAttrs* attrs, std::string* why) : attrs_(attrs), why_(why) {}

  template <class T>
  T Number(int index, const char* name) {
    const T* found = attrs_->GetAttrPointer<T>(index);
    if (found == nullptr) {
      Complain(std::string("attribute ") + name + " is missing");
      return T();
    }
    return *found;
  }

  int32_t Name(int index, const char* name, const char* const* names, int32_t count) {
    const char* text = attrs_->GetAttrPointer<char>(index);
    const int32_t code = CodeOf(text, names, count);
    if (code < 0) {
      std::string allowed;
      for (int32_t i = 0; i < count; ++i) allowed += std::string(i ? ", " : "") + names[i];
      Complain(std::string("attribute ") + name + " is " + (text ? text : "missing") +
               ", allowed are " + allowed);
    }
    return code;
  }

  void Complain(const std::string& text) {
    if (ok_) *why_ = text;
    ok_ = false;
  }
  bool ok() const { return ok_; }

 private:
  const gert::RuntimeAttrs* attrs_;
  std::string* why_;
  bool ok_ = true;
};

int64_t Times(int64_t a, int64_t b) { return a < 0 || b < 0 ? -1 : a * b; }

}  // namespace

bool ReadSettings(const gert::RuntimeAttrs* attrs, Settings* settings, std::string* why) {
  if (attrs == nullptr) {
    *why = "the node has no attributes";
    return false;
  }
  Reader read(attrs, why);
  settings->heads = read.Number<int64_t>(kNumHeads, "num_heads");
  settings->kv_heads = read.Number<int64_t>(kNumKvHeads, "num_kv_heads");
  settings->scale = read.Number<float>(kScale, "scale");
  settings->layout = read.Name(kLayout, "layout", kLayouts, 3);
  settings->out_layout = read.Name(kOutLayout, "out_layout", kLayouts, 3);
  settings->softcap = read.Number<float>(kSoftcap, "softcap");
  settings->causal = read.Name(kCausal, "causal", kCausals, 3);
  settings->window_left = read.Number<int64_t>(kWindowLeft, "window_left");
  settings->window_right = read.Number<int64_t>(kWindowRight, "window_right");
  settings->masked_rows = read.Name(kMaskedRows, "masked_rows", kRows, 3);
  settings->inner_precision = read.Name(kInnerPrecision, "inner_precision", kPrecisions, 2);
  settings->with_lse = read.Number<int64_t>(kWithLse, "with_lse") != 0;
  if (!read.ok()) return false;
  if (settings->heads < 1 || settings->kv_heads < 1 || settings->heads % settings->kv_heads != 0) {
    std::ostringstream text;
    text << "num_heads " << settings->heads << " is not a multiple of num_kv_heads "
         << settings->kv_heads;
    *why = text.str();
    return false;
  }
  return true;
}

bool ReadExtent(const gert::Shape& shape, int32_t layout, int64_t heads, const char* name,
                Extent* extent, std::string* why) {
  const size_t rank = layout == kBsh ? 3 : 4;
  if (shape.GetDimNum() != rank) {
    std::ostringstream text;
    text << name << " has " << shape.GetDimNum() << " dims, layout " << kLayouts[layout] << " has "
         << rank;
    *why = text.str();
    return false;
  }
  extent->batch = shape.GetDim(0);
  if (layout == kBsh) {
    const int64_t hidden = shape.GetDim(2);
    extent->heads = heads;
    extent->length = shape.GetDim(1);
    extent->depth = hidden < 0 ? -1 : hidden / heads;
    if (hidden >= 0 && hidden % heads != 0) {
      std::ostringstream text;
      text << name << ": hidden size " << hidden << " is not a multiple of its " << heads
           << " heads";
      *why = text.str();
      return false;
    }
    return true;
  }
  const int where = layout == kBnsd ? 1 : 2;
  extent->heads = shape.GetDim(where);
  extent->length = shape.GetDim(layout == kBnsd ? 2 : 1);
  extent->depth = shape.GetDim(3);
  if (extent->heads >= 0 && extent->heads != heads) {
    std::ostringstream text;
    text << name << " has " << extent->heads << " heads, the attributes say " << heads;
    *why = text.str();
    return false;
  }
  extent->heads = heads;
  return true;
}

gert::Shape LayOut(const Extent& extent, int32_t layout) {
  gert::Shape shape;
  shape.AppendDim(extent.batch);
  if (layout == kBnsd) shape.AppendDim(extent.heads);
  shape.AppendDim(extent.length);
  if (layout == kBsnd) shape.AppendDim(extent.heads);
  shape.AppendDim(layout == kBsh ? Times(extent.heads, extent.depth) : extent.depth);
  return shape;
}

void Refuse(const char* node, const std::string& why) {
  fprintf(stderr, "[ERROR] omfuse FlashAttention %s: %s\n", node ? node : "", why.c_str());
  fflush(stderr);
}

}  // namespace omfuse
