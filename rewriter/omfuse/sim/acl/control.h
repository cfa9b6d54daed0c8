// What Python gives the simulated device: a loader and a kernel. And how tests drive it.
#ifndef OMFUSE_SIM_ACL_CONTROL_H_
#define OMFUSE_SIM_ACL_CONTROL_H_

#include <string>

#include "state.h"

namespace simacl {

// Asks the registered loader for the description of a model; key 0 describes without keeping it.
std::string CallLoader(uint64_t key, const char* path, const void* data, size_t size);

// The ledger as JSON: what is alive, who made it, what was forgiven, what was called last.
std::string Report();

}  // namespace simacl

#endif  // OMFUSE_SIM_ACL_CONTROL_H_
