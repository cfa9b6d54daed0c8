// From the attributes of the ONNX node to those of the operator, checked; C++11, no CANN types.
#ifndef OMFUSE_FLASH_ATTENTION_SETTINGS_H_
#define OMFUSE_FLASH_ATTENTION_SETTINGS_H_

#include <stdint.h>

#include <string>
#include <utility>
#include <vector>

#include "node_attributes.h"

namespace omfuse {

// What the plugin sets on the operator, by name.
struct OperatorSettings {
  std::vector<std::pair<const char*, int64_t>> integers;
  std::vector<std::pair<const char*, float>> floats;
  std::vector<std::pair<const char*, std::string>> names;
};

// Reads one node.  `json` is what ATC's parser gives.  False when a needed attribute is missing or
// a value is out of the contract; `why` names it and the fix.
bool ReadNode(const std::string& json, OperatorSettings* settings, std::string* why);

}  // namespace omfuse

#endif  // OMFUSE_FLASH_ATTENTION_SETTINGS_H_
