#include "node_attributes.h"

#include <stdlib.h>
#include <string.h>

#include <memory>
#include <sstream>

namespace omfuse {
namespace {

// A JSON value: text, or the digits of a number (then `text` holds them), or a list, or an object.
struct Json {
  std::string text;
  std::vector<Json> list;
  std::vector<std::pair<std::string, Json>> members;
  bool structured = false;

  const Json* Member(const char* name) const {
    for (const auto& member : members) {
      if (member.first == name) return &member.second;
    }
    return nullptr;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : text_(text) {}

  bool Read(Json* value) { return Value(value, 0) && (Skip(), at_ == text_.size()); }
  size_t at() const { return at_; }

 private:
  static const int kDepth = 24;  // deeper than any attribute; bounds the recursion

  void Skip() {
    while (at_ < text_.size() && strchr(" \t\r\n", text_[at_]) != nullptr) ++at_;
  }

  bool Take(char wanted) {
    Skip();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  bool Value(Json* value, int depth) {
    Skip();
    if (at_ >= text_.size() || depth > kDepth) return false;
    switch (text_[at_]) {
      case '{':
        return Object(value, depth);
      case '[':
        return List(value, depth);
      case '"':
        return Text(&value->text);
      default:
        return Word(&value->text);
    }
  }

  bool Object(Json* value, int depth) {
    value->structured = true;
    if (!Take('{')) return false;
    if (Take('}')) return true;
    do {
      Skip();
      std::pair<std::string, Json> member;
      if (!Text(&member.first) || !Take(':') || !Value(&member.second, depth + 1)) return false;
      value->members.push_back(std::move(member));
    } while (Take(','));
    return Take('}');
  }

  bool List(Json* value, int depth) {
    value->structured = true;
    if (!Take('[')) return false;
    if (Take(']')) return true;
    do {
      Json item;
      if (!Value(&item, depth + 1)) return false;
      value->list.push_back(std::move(item));
    } while (Take(','));
    return Take(']');
  }

  bool Text(std::string* text) {
    if (at_ >= text_.size() || text_[at_] != '"') return false;
    for (++at_; at_ < text_.size(); ++at_) {
      char next = text_[at_];
      if (next == '"') {
        ++at_;
        return true;
      }
      if (next == '\\') {
        if (++at_ >= text_.size()) return false;
        next = text_[at_];
        if (next == 'u') {
          // Names and values of ours are ASCII: the escape is kept as it is, never misread.
          text->append("\\u");
          continue;
        }
        const char* const from = "nrtbf";
        const char* const to = "\n\r\t\b\f";
        const char* found = strchr(from, next);
        if (found != nullptr) next = to[found - from];
      }
      text->push_back(next);
    }
    return false;
  }

  // A number, true, false or null.
  bool Word(std::string* text) {
    while (at_ < text_.size() && strchr(",]} \t\r\n", text_[at_]) == nullptr) {
      text->push_back(text_[at_++]);
    }
    return !text->empty();
  }

  const std::string& text_;
  size_t at_ = 0;
};

bool Number(const Json& value, double* number) {
  const char* start = value.text.c_str();
  char* end = nullptr;
  *number = strtod(start, &end);
  return !value.structured && end != start && *end == '\0';
}

bool Integer(const Json& value, int64_t* number) {
  const char* start = value.text.c_str();
  char* end = nullptr;
  *number = strtoll(start, &end, 10);
  return !value.structured && end != start && *end == '\0';
}

bool Fill(const Json& item, NodeAttribute* attribute) {
  double number = 0;
  if (const Json* value = item.Member("i")) {
    if (!Integer(*value, &attribute->i)) return false;
  }
  if (const Json* value = item.Member("f")) {
    if (!Number(*value, &number)) return false;
    attribute->f = static_cast<float>(number);
  }
  if (const Json* value = item.Member("s")) attribute->s = value->text;
  if (const Json* value = item.Member("floats")) {
    for (const Json& entry : value->list) {
      if (!Number(entry, &number)) return false;
      attribute->floats.push_back(static_cast<float>(number));
    }
  }
  return true;
}

}  // namespace

bool NodeAttributes::Parse(const std::string& json, std::string* why) {
  all_.clear();
  Json root;
  JsonReader reader(json);
  if (!reader.Read(&root)) {
    std::ostringstream text;
    text << "the attributes are no JSON, at character " << reader.at();
    *why = text.str();
    return false;
  }
  const Json* list = root.Member("attribute");
  if (list == nullptr) {
    *why = "the attributes have no list `attribute`";
    return false;
  }
  for (const Json& item : list->list) {
    const Json* name = item.Member("name");
    if (name == nullptr) {
      *why = "an attribute has no name";
      return false;
    }
    if (!Fill(item, &all_[name->text])) {
      *why = "attribute " + name->text + " has a value that is no number";
      return false;
    }
  }
  return true;
}

}  // namespace omfuse
