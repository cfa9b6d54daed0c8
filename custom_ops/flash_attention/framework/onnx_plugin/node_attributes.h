// The attributes of an ONNX node as ATC's parser hands them to a plugin: one JSON text.
//
// The parser writes `{"attribute": [{"name": "scale", "type": 1, "f": "0.125"}, ...]}`.  Traps:
// a float is a text of six significant digits (`floats` keep theirs), text values are escaped as in
// C, and a value of zero or "" is left out, because proto3 does not tell it from an absent one.
// A reader of our own, since CANN ships no JSON header.  C++11, no CANN types: tested on its own.
#ifndef OMFUSE_NODE_ATTRIBUTES_H_
#define OMFUSE_NODE_ATTRIBUTES_H_

#include <stdint.h>

#include <map>
#include <string>
#include <vector>

namespace omfuse {

struct NodeAttribute {
  int64_t i = 0;
  float f = 0;
  std::string s;
  std::vector<float> floats;
};

class NodeAttributes {
 public:
  // False when the text is not what the parser writes; `why` then says where.
  bool Parse(const std::string& json, std::string* why);

  const NodeAttribute* Find(const std::string& name) const {
    const auto found = all_.find(name);
    return found == all_.end() ? nullptr : &found->second;
  }

 private:
  std::map<std::string, NodeAttribute> all_;
};

}  // namespace omfuse

#endif  // OMFUSE_NODE_ATTRIBUTES_H_
