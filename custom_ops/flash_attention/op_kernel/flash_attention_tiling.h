// Tiling of FlashAttention: what the host decides and the kernel obeys.
//
// A plain C++11 struct without CANN types, shared by the host library, the kernel and the host
// emulation.  The host writes it as raw tiling data; the kernel reads it word by word, so the
// struct holds only 8- and 4-byte fields, the wide ones first, and no padding.
#ifndef OMFUSE_FLASH_ATTENTION_TILING_H_
#define OMFUSE_FLASH_ATTENTION_TILING_H_

#include <stdint.h>

namespace omfuse {

// Codes shared with the host; the Python contract uses the same order of names.
enum Causal { kCausalNone = 0, kCausalTopLeft = 1, kCausalBottomRight = 2 };
enum MaskedRows { kRowsNan = 0, kRowsZero = 1, kRowsUniform = 2 };
enum Presence { kAbsent = 0, kSameType = 1, kFloat32 = 2 };

struct FlashAttentionTiling {
  // Strides of the tensors in global memory, in elements.
  uint64_t qBatchStride, qHeadStride;
  uint64_t kBatchStride, kHeadStride;
  uint64_t vBatchStride, vHeadStride;
  uint64_t oBatchStride, oHeadStride;
  uint64_t biasBatchStride, biasHeadStride, biasRowStride;  // 0 where the tensor broadcasts
  uint64_t maskBatchStride, maskHeadStride, maskRowStride;
  // Workspace, in bytes: a region a cube core, of `slots` slots a stage.
  uint64_t coreBytes;                               // size of one core's region
  uint64_t scoresOffset, probsOffset, partsOffset;  // in the region
  uint64_t scoresSlot, probsSlot, partsSlot;        // bytes of one slot
  uint64_t splitOffset;                             // results of the parts of a split KV range
  uint64_t splitBytes;                              // one of them: half the rows of one task
  uint32_t qRowStride, kRowStride, vRowStride, oRowStride;
  // The problem.
  uint32_t batch, heads, kvHeads, group;  // group = heads / kvHeads
  uint32_t qLen, kvLen, depth, valueDepth;
  uint32_t depthPad, valuePad;  // rounded up to the fractal's 16
  float scale, softcap;
  uint32_t causal, maskedRows;
  int32_t windowLeft, windowRight;     // -1 = open
  uint32_t bias, mask, sink;           // Presence
  uint32_t kvLengths, lse, innerHalf;  // 0 or 1
  // The blocking.
  uint32_t blockRows;     // query rows a task (M)
  uint32_t stepColumns;   // keys a softmax step
  uint32_t groupRows;     // rows that one vector pass holds
  uint32_t chunkRows;     // rows of the output update
  uint32_t packed;        // 1: the rows of a task are all heads of one kv head
  uint32_t unitRows;      // rows of a (batch, head) or, packed, a (batch, kv head) unit
  uint32_t unitHeads;     // heads, or kvHeads when packed
  uint32_t rowBlocks;     // tasks a unit
  uint32_t tasks;         // batch * unitHeads * rowBlocks * splits
  uint32_t cores;         // cube cores at work
  uint32_t splits;        // parts of the KV range, 1 = no split
  uint32_t splitColumns;  // keys a part, multiple of stepColumns
  uint32_t skipBlocks;    // 0: visit every key (a row without keys averages them all)
  uint32_t panelKeys;     // keys of one multiplication
  uint32_t loadKeys;      // keys that one buffer of L1 holds, one panel or two
  uint32_t alternate;     // 1: score and output panels alternate, each with its own L0C
  uint32_t biasPerRow;    // 1: the tensor has one value for all keys of a row
  uint32_t maskPerRow;
  // Tasks that one core takes together, 0 = tasks go round the cores. Where rows of the output are
  // shorter than a block that can be written, a core owns a range of the output with all its tasks.
  uint32_t taskRun;
};

static_assert(sizeof(FlashAttentionTiling) % 8 == 0, "the kernel reads whole words");
const uint32_t kTilingWords = sizeof(FlashAttentionTiling) / sizeof(uint32_t);

}  // namespace omfuse

#endif  // OMFUSE_FLASH_ATTENTION_TILING_H_
