// C interface of the emulated kernel: one library an architecture, one call a run.
//
// The library holds the unchanged kernel source compiled for the host against the emulated Ascend C
// headers of this folder. It is a model of the device: numbers are rounded as the device rounds,
// times are estimates from published instruction costs.
#ifndef OMFUSE_EMULATION_H_
#define OMFUSE_EMULATION_H_

#include <stdint.h>

#include "../flash_attention/op_host/tiling_plan.h"

extern "C" {

enum OmfuseEmulationCode {
  OMFUSE_EMULATION_OK = 0,
  OMFUSE_EMULATION_REJECTED = 1,   // the tiling refuses the problem; message says why
  OMFUSE_EMULATION_VIOLATION = 2,  // the kernel broke a rule of the device; message says which
  OMFUSE_EMULATION_BAD_CALL = 3    // null pointer, wrong architecture, unknown dtype
};

enum OmfusePipe {
  OMFUSE_PIPE_S = 0,
  OMFUSE_PIPE_V = 1,
  OMFUSE_PIPE_M = 2,
  OMFUSE_PIPE_MTE1 = 3,
  OMFUSE_PIPE_MTE2 = 4,
  OMFUSE_PIPE_MTE3 = 5,
  OMFUSE_PIPE_FIX = 6,
  OMFUSE_PIPES = 7
};

struct OmfuseTensors {  // host pointers, contiguous; absent ones null
  const void* query;
  const void* key;
  const void* value;
  const void* attn_bias;
  const void* attn_mask;
  const void* sink;
  const void* kv_lengths;
  void* output;
  void* lse;
};

struct OmfuseOptions {
  uint64_t seed;       // of the random schedule
  int32_t schedule;    // 0 = program order (fast), 1 = random order within what the waits allow
  int32_t checks;      // 1 = bounds, uninitialised reads, races, flags, queues
  int32_t count_only;  // 1 = costs only: tensors may be null and no output is written
  int32_t reserved;
};

struct OmfuseCounters {
  // Bytes moved.
  uint64_t tensor_read, tensor_write;        // inputs and outputs in global memory
  uint64_t workspace_read, workspace_write;  // scratch in global memory (normally L2 hits)
  uint64_t l1_to_l0a, l1_to_l0b, l0c_out, ub_to_l1, gm_to_l1, gm_to_ub, ub_to_gm;
  // Over all cores: busy cycles, and instructions, of each OmfusePipe.
  uint64_t busy[OMFUSE_PIPES];
  uint64_t instructions[OMFUSE_PIPES];
  uint64_t cube_macs;                 // multiply-adds issued, padding included
  uint64_t cycles;                    // end of the slowest core on the event-driven clock
  uint64_t critical[OMFUSE_PIPES];    // busy cycles of the pipes of the slowest core
  uint32_t cube_cores, vector_cores;  // that ran
  uint64_t held[5];                   // bytes of UB, L1, L0A, L0B, L0C that buffers took on a core
};

// The tiling of one problem; what tests, estimates and the operator's host code look at.
int32_t omfuse_emulation_plan(const omfuse::Problem* problem, const omfuse::Platform* platform,
                              omfuse::FlashAttentionTiling* tiling, omfuse::Plan* plan,
                              char* message, uint64_t message_bytes);

// Plans and runs. `counters` may be null. `message` gets the reason for any code but 0.
int32_t omfuse_emulation_run(const omfuse::Problem* problem, const omfuse::Platform* platform,
                             const OmfuseTensors* tensors, const OmfuseOptions* options,
                             OmfuseCounters* counters, char* message, uint64_t message_bytes);

// 0 = 910B family, 1 = 310P: the architecture this library was compiled for.
int32_t omfuse_emulation_arch(void);
}

#endif  // OMFUSE_EMULATION_H_
