// Costs of the device's instructions, in cycles: published figures, a model and no measurement.
//
// Vector: cycles a repeat (256 bytes) and a start-up, as measured on 910B3 by CANN's pto-isa
// project; cube and buffer rates from CANN's platform files and Ascend C guide. Figures marked A
// are assumptions.
#ifndef OMFUSE_EMULATION_COST_H_
#define OMFUSE_EMULATION_COST_H_

#include <cstdint>

namespace omfuse_emu {

constexpr uint32_t kScalarIssue = 8;          // A: scalar work for one call
constexpr uint32_t kQueueDepth = 32;          // instructions waiting in a pipe
constexpr uint32_t kCrossCoreLatency = 100;   // A: a flag between cube and vector core
constexpr uint32_t kTensorLatency = 1550;     // first byte of a read that misses L2
constexpr uint32_t kWorkspaceLatency = 1400;  // of a read that hits it
constexpr uint32_t kWriteLatency = 300;
constexpr uint32_t kLocalLatency = 30;  // A: L1 to L0, L0C out
constexpr uint32_t kDmaStart = 16;      // A: cycles a transfer occupies its engine at least

struct VectorCost {
  double repeat;   // cycles per 256 bytes
  uint32_t start;  // latency until the result can be used
};
constexpr VectorCost kScalarOperand{1.0, 26};
constexpr VectorCost kTwoTensors{2.0, 24};
constexpr VectorCost kExp{2.0, 31};
constexpr VectorCost kDivide{4.0, 31};
constexpr VectorCost kConvert{1.0, 28};
constexpr VectorCost kBlockReduce{1.0, 28};

struct Rates {  // bytes per cycle and core
  uint32_t global_read, global_write, l1_to_l0a, l1_to_l0b, l0c_out, ub_to_l1;
};
constexpr Rates kSplitRates{110, 86, 256, 128, 128, 1};
constexpr Rates kCoupledRates{114, 114, 512, 256, 512, 256};

}  // namespace omfuse_emu

#endif  // OMFUSE_EMULATION_COST_H_
