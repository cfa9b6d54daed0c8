// See tiling_plan.h.
#include "tiling_plan.h"

#include <string.h>

#include <sstream>

namespace omfuse {
namespace {

const uint32_t kPanel = 128;                          // keys of one cube step, as in the kernel
uint32_t Slots(bool split) { return split ? 5 : 3; }  // steps in flight, as in the kernel
const uint64_t kUbReserve = 8 * 1024;                 // kept for CANN's library calls
const int64_t kMaxDepth = 256;

uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }
int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

class Rejection {
 public:
  template <typename V>
  Rejection& operator<<(const V& value) {
    text_ << value;
    return *this;
  }
  bool To(std::string* why) const {
    if (why) *why = text_.str();
    return false;
  }

 private:
  std::ostringstream text_;
};

// Strides of a query-like tensor [B, heads, length, depth] in its layout.
void Strides(int32_t layout, int64_t heads, int64_t length, int64_t depth, uint64_t* batch,
             uint64_t* head, uint32_t* row) {
  *batch = static_cast<uint64_t>(heads * length * depth);
  if (layout == kBnsd) {
    *head = static_cast<uint64_t>(length * depth);
    *row = static_cast<uint32_t>(depth);
  } else {
    *head = static_cast<uint64_t>(depth);
    *row = static_cast<uint32_t>(heads * depth);
  }
}

bool Broadcast(const char* name, const int64_t dims[4], const Problem& p, uint64_t* batch,
               uint64_t* head, uint64_t* row, std::string* why) {
  const int64_t full[4] = {p.batch, p.heads, p.q_len, p.kv_len};
  for (int i = 0; i < 4; ++i) {
    if (dims[i] == full[i] || dims[i] == 1) continue;
    return (Rejection() << name << " dimension " << i << " is " << dims[i] << ", not 1 or "
                        << full[i])
        .To(why);
  }
  *row = dims[2] == 1 ? 0 : static_cast<uint64_t>(dims[3]);
  *head = dims[1] == 1 ? 0 : static_cast<uint64_t>(dims[2] * dims[3]);
  *batch = dims[0] == 1 ? 0 : static_cast<uint64_t>(dims[1] * dims[2] * dims[3]);
  return true;
}

bool CheckShape(const Problem& p, const Platform& chip, std::string* why) {
  if (p.batch < 1 || p.heads < 1 || p.kv_heads < 1 || p.q_len < 1 || p.kv_len < 1 || p.depth < 1 ||
      p.value_depth < 1) {
    return (Rejection() << "a dimension is empty").To(why);
  }
  if (p.heads % p.kv_heads) {
    return (Rejection() << "num_heads " << p.heads << " is not a multiple of num_kv_heads "
                        << p.kv_heads)
        .To(why);
  }
  if (p.depth > kMaxDepth || p.value_depth > kMaxDepth) {
    return (Rejection() << "head depth " << (p.depth > kMaxDepth ? p.depth : p.value_depth)
                        << " is above " << kMaxDepth)
        .To(why);
  }
  if (p.q_len > (1 << 24) || p.kv_len > (1 << 24) || p.batch * p.heads > (1 << 24)) {
    return (Rejection() << "a dimension is above 16777216").To(why);
  }
  if (p.dtype != kFp16 && !(p.dtype == kBf16 && chip.split)) {
    return (Rejection() << (p.dtype == kBf16 ? "this chip has no bfloat16: convert to float16"
                                             : "cast query, key and value to float16 or bfloat16 "
                                               "before the operator"))
        .To(why);
  }
  const int64_t query_row = (p.layout == kBnsd ? 1 : p.heads) * p.depth;
  const int64_t value_row = (p.layout == kBnsd ? 1 : p.kv_heads) * p.value_depth;
  const int64_t row = query_row > value_row ? query_row : value_row;
  if (row > (chip.split ? 65535 : 65535 * 16)) {
    return (Rejection() << "a row of " << row
                        << " elements is beyond the copy engine: use layout BNSD")
        .To(why);
  }
  return true;
}

// What whole 32-byte blocks cannot do (310P has no padding copies).
bool CheckCoupled(const Problem& p, std::string* why) {
  if (p.batch * p.heads * p.q_len * p.value_depth < 16) {
    return (Rejection() << "this chip writes whole 32-byte blocks, and the output is shorter")
        .To(why);
  }
  if (p.bias_dtype == kFp32) {
    return (Rejection() << "this chip takes attn_bias as float16 only").To(why);
  }
  if (p.lse_present && p.q_len % 8) {
    return (Rejection() << "this chip writes lse in blocks of 8 rows and the query length "
                        << p.q_len << " is not a multiple")
        .To(why);
  }
  return true;
}

int32_t PresenceOf(int32_t dtype) {
  return dtype == kNoType ? kAbsent : dtype == kFp32 ? kFloat32 : kSameType;
}

bool MayMaskWholeRows(const Problem& p) {
  return p.mask_present || p.kv_lengths_present || p.window_left >= 0 || p.window_right >= 0 ||
         p.causal == kCausalBottomRight;
}

// Columns of a result part: the value depth, and 16 that hold the row sums.
uint32_t PartColumns(const FlashAttentionTiling& t) { return t.valuePad + 16; }

// Bytes of a score between cube and vector cores.
uint32_t ScoreBytes(const FlashAttentionTiling& t) { return t.innerHalf ? 2 : 4; }

// UB that the kernel's buffers take; mirrors the InitBuffer calls of op_kernel.
uint64_t UbBytes(const FlashAttentionTiling& t, bool split) {
  const uint64_t coreRows = split ? t.blockRows / 2 : t.blockRows;
  const uint64_t cells = static_cast<uint64_t>(t.groupRows) * t.stepColumns;
  const uint64_t maskCells = static_cast<uint64_t>(t.groupRows) * RoundUp(t.stepColumns, 32);
  uint64_t bytes = 0;
  if (split) bytes += 3 * cells * ScoreBytes(t);  // scores and parts on their way
  const uint64_t part = static_cast<uint64_t>(t.chunkRows) * PartColumns(t);
  if (!split) bytes += (part > cells ? part : cells) * 4;  // scores, and parts in their place
  if (t.innerHalf) bytes += cells * 4;                     // scores at work
  bytes += cells * 2;                                      // probabilities
  if (!split && t.depth % 16) bytes += static_cast<uint64_t>(t.blockRows) * t.depthPad * 2;
  if (!split && t.depth < 16) bytes += static_cast<uint64_t>(t.stepColumns) * t.depthPad * 2;
  if (t.taskRun) bytes += 32;
  bytes += 2 * Slots(split) * coreRows * 32;  // max, alpha
  const uint64_t partial = static_cast<uint64_t>(t.stepColumns) / 16 * t.groupRows * 8;
  const uint64_t windows = t.groupRows <= 16 ? static_cast<uint64_t>(t.groupRows) * 256 : 0;
  bytes += partial > windows ? partial : windows;  // reduction
  bytes += t.groupRows * (64 + 64 + 32) + 64;
  const bool bias = t.bias && !t.biasPerRow;
  const bool mask = t.mask && !t.maskPerRow;
  if (bias) bytes += maskCells * (t.bias == kFloat32 ? 4 : 2);
  if (mask) bytes += maskCells * 5;
  if (mask || (bias && t.bias == kSameType)) bytes += maskCells * 4;
  if (t.biasPerRow || t.maskPerRow) bytes += t.groupRows * 64;
  bytes += 2 * 1024;                       // triangles
  bytes += coreRows * PartColumns(t) * 4;  // output sums
  bytes += static_cast<uint64_t>(t.chunkRows) * (64 + t.valuePad * 2);
  if (t.lse) bytes += (Slots(split) + 1) * coreRows * 32 + coreRows * 4;  // sums, logarithms
  return bytes;
}

uint64_t L1Bytes(const FlashAttentionTiling& t) {
  return 4ull * (static_cast<uint64_t>(t.blockRows) * (t.depthPad + t.loadKeys) +
                 static_cast<uint64_t>(t.loadKeys) * (t.depthPad + t.valuePad)) +
         512;
}

uint64_t CoupledL1Bytes(const FlashAttentionTiling& t) {
  return 4ull * (static_cast<uint64_t>(t.blockRows) * t.depthPad +
                 static_cast<uint64_t>(t.stepColumns) * (t.depthPad + t.valuePad + t.groupRows)) +
         512;
}

// Coupled chips: as many rows as fit, so that keys are read seldom, then wide steps, so that the
// output is updated seldom. A group of rows holds as many scores whatever the width.
bool FitCoupled(const Platform& chip, uint64_t room, FlashAttentionTiling* t) {
  const uint32_t most = t->blockRows;
  const uint32_t kRows[] = {128, 64, 32, 16};
  const uint32_t kSteps[] = {2 * kPanel, kPanel};
  for (uint32_t limit : kRows) {
    t->blockRows = limit < most ? limit : most;
    for (uint32_t step : kSteps) {
      if (step > kPanel && step > RoundUp(t->kvLen, kPanel)) continue;
      t->stepColumns = step;
      t->groupRows = 128 * kPanel / step;
      if (t->groupRows > t->blockRows) t->groupRows = t->blockRows;
      // Rows of a mask are sorted by one stride of eight bits.
      if (t->mask && !t->maskPerRow && t->groupRows * 2 > 255) continue;
      const uint64_t results = 2 * static_cast<uint64_t>(step) + PartColumns(*t);
      if (results * t->groupRows * 4 > chip.l0c_bytes) continue;
      if (CoupledL1Bytes(*t) > chip.l1_bytes) continue;
      t->chunkRows = t->groupRows;
      for (; t->chunkRows >= 16; t->chunkRows = t->chunkRows / 32 * 16) {
        if (UbBytes(*t, false) <= room) return true;
      }
    }
  }
  return false;
}

// The largest rows and steps that fit, best first.
bool Fit(const Platform& chip, FlashAttentionTiling* t) {
  const uint64_t room = chip.ub_bytes - kUbReserve;
  if (!chip.split) return FitCoupled(chip, room, t);
  const uint32_t kGroups[] = {16, 8};
  for (uint32_t step = 4 * t->panelKeys; step >= t->panelKeys; step -= t->panelKeys) {
    for (uint32_t group : kGroups) {
      t->stepColumns = step;
      t->groupRows = group;
      for (t->chunkRows = 64; t->chunkRows >= 8; t->chunkRows /= 2) {
        if (static_cast<uint64_t>(t->chunkRows) * PartColumns(*t) * 4 <=
                static_cast<uint64_t>(group) * step * ScoreBytes(*t) &&
            UbBytes(*t, true) <= room) {
          return true;
        }
      }
    }
  }
  return false;
}

void Count(FlashAttentionTiling* t) {
  t->rowBlocks = static_cast<uint32_t>(CeilDiv(t->unitRows, t->blockRows));
  t->tasks = t->batch * t->unitHeads * t->rowBlocks * t->splits;
}

// Keys of one multiplication. If a panel of scores and a result part fit in L0C side by side, the
// cube alternates between the two and the copies out of L0C hide behind it.
void Panel(const Platform& chip, FlashAttentionTiling* t) {
  t->panelKeys = kPanel;
  t->alternate = 0;
  if (!chip.split) return;
  const uint64_t rowBytes = static_cast<uint64_t>(t->blockRows) * 4;
  const uint64_t columns = chip.l0c_bytes / rowBytes - PartColumns(*t);
  if (columns < 96) return;
  t->alternate = 1;
  if (columns < kPanel) t->panelKeys = static_cast<uint32_t>(columns / 16 * 16);
}

// Rows of a task. Few queries: the heads that share keys go through the cube together.
bool Block(const Problem& p, const Platform& chip, FlashAttentionTiling* t) {
  for (int packed = t->group > 1 ? 1 : 0; packed >= 0; --packed) {
    t->packed = static_cast<uint32_t>(packed);
    t->unitHeads = packed ? t->kvHeads : t->heads;
    const uint64_t rows = packed ? static_cast<uint64_t>(t->group) * t->qLen : t->qLen;
    if (packed && rows > 128) continue;
    t->unitRows = static_cast<uint32_t>(rows);
    t->blockRows = static_cast<uint32_t>(RoundUp(rows < 128 ? rows : 128, 16));
    if (chip.split) {
      while (static_cast<uint64_t>(t->blockRows) * PartColumns(*t) * 4 > chip.l0c_bytes) {
        t->blockRows -= 16;
      }
      // Short work spreads over more cores in smaller blocks.
      const int64_t units = p.batch * t->unitHeads;
      while (!packed && t->blockRows > 64 &&
             units * CeilDiv(t->unitRows, t->blockRows) < chip.cube_cores) {
        t->blockRows = static_cast<uint32_t>(RoundUp(t->blockRows / 2, 16));
      }
    }
    Panel(chip, t);
    if (Fit(chip, t) && !(packed && t->blockRows < t->unitRows)) return true;
  }
  return false;
}

// Rows of the output shorter than the 32-byte blocks that a coupled chip writes: each core owns a
// range of the output, at least one block long, and all tasks that lie in it.
void Own(FlashAttentionTiling* t) {
  const uint64_t row = t->oRowStride > t->valueDepth ? t->oRowStride : t->valueDepth;
  const bool together = t->oRowStride > t->valueDepth;  // heads of a row lie side by side
  uint64_t rows = t->unitRows % t->blockRows ? t->unitRows % t->blockRows : t->blockRows;
  if (together && t->packed) rows = t->qLen;
  t->taskRun = together ? t->unitHeads : 1;
  if (rows * row < 16) {
    t->taskRun *= t->rowBlocks;
    rows = together ? t->qLen : t->unitRows;
  }
  const uint64_t smallest = rows * row;  // range of a run, in elements
  const uint64_t least = (16 + smallest - 1) / smallest;
  const uint64_t most = t->tasks / t->taskRun / least;
  if (t->cores > most) t->cores = most > 1 ? static_cast<uint32_t>(most) : 1;
}

// Too few tasks for the cores and many keys: cut the keys.
void Split(const Platform& chip, FlashAttentionTiling* t) {
  if (t->tasks * 2 > chip.cube_cores || t->kvLen < 2048) return;
  const uint32_t most = static_cast<uint32_t>(CeilDiv(t->kvLen, 512));
  uint32_t splits = chip.cube_cores / t->tasks;
  if (splits > most) splits = most;
  t->splitColumns = static_cast<uint32_t>(RoundUp(CeilDiv(t->kvLen, splits), t->stepColumns));
  t->splits = static_cast<uint32_t>(CeilDiv(t->kvLen, t->splitColumns));
  Count(t);
}

}  // namespace

bool PlanTiling(const Problem& p, const Platform& chip, FlashAttentionTiling* tiling, Plan* plan,
                std::string* why) {
  if (!CheckShape(p, chip, why)) return false;
  if (!chip.split && !CheckCoupled(p, why)) return false;
  FlashAttentionTiling t;
  memset(&t, 0, sizeof(t));
  t.batch = static_cast<uint32_t>(p.batch);
  t.heads = static_cast<uint32_t>(p.heads);
  t.kvHeads = static_cast<uint32_t>(p.kv_heads);
  t.group = t.heads / t.kvHeads;
  t.qLen = static_cast<uint32_t>(p.q_len);
  t.kvLen = static_cast<uint32_t>(p.kv_len);
  t.depth = static_cast<uint32_t>(p.depth);
  t.valueDepth = static_cast<uint32_t>(p.value_depth);
  t.depthPad = static_cast<uint32_t>(RoundUp(t.depth, 16));
  t.valuePad = static_cast<uint32_t>(RoundUp(t.valueDepth, 16));
  Strides(p.layout, p.heads, p.q_len, p.depth, &t.qBatchStride, &t.qHeadStride, &t.qRowStride);
  Strides(p.layout, p.kv_heads, p.kv_len, p.depth, &t.kBatchStride, &t.kHeadStride, &t.kRowStride);
  Strides(p.layout, p.kv_heads, p.kv_len, p.value_depth, &t.vBatchStride, &t.vHeadStride,
          &t.vRowStride);
  Strides(p.out_layout, p.heads, p.q_len, p.value_depth, &t.oBatchStride, &t.oHeadStride,
          &t.oRowStride);
  t.bias = static_cast<uint32_t>(PresenceOf(p.bias_dtype));
  if (t.bias && !Broadcast("attn_bias", p.bias_dims, p, &t.biasBatchStride, &t.biasHeadStride,
                           &t.biasRowStride, why)) {
    return false;
  }
  t.mask = p.mask_present ? kSameType : kAbsent;
  if (t.mask && !Broadcast("attn_mask", p.mask_dims, p, &t.maskBatchStride, &t.maskHeadStride,
                           &t.maskRowStride, why)) {
    return false;
  }
  t.biasPerRow = t.bias && p.kv_len > 1 && p.bias_dims[3] == 1;
  t.maskPerRow = t.mask && p.kv_len > 1 && p.mask_dims[3] == 1;
  t.sink = static_cast<uint32_t>(PresenceOf(p.sink_dtype));
  t.kvLengths = p.kv_lengths_present ? 1 : 0;
  t.lse = p.lse_present ? 1 : 0;
  // Scores lie in memory between the cores of split chips only; a range as wide as that of bfloat16
  // does not fit in fp16.
  t.innerHalf = p.inner_precision && chip.split && p.dtype == kFp16 ? 1 : 0;
  t.scale = p.scale;
  t.softcap = p.softcap;
  t.causal = static_cast<uint32_t>(p.causal);
  t.windowLeft = static_cast<int32_t>(p.window_left > p.kv_len + p.q_len ? -1 : p.window_left);
  t.windowRight = static_cast<int32_t>(p.window_right > p.kv_len + p.q_len ? -1 : p.window_right);
  // With a sink no row is empty.
  t.maskedRows = t.sink ? static_cast<uint32_t>(kRowsNan) : static_cast<uint32_t>(p.masked_rows);
  t.skipBlocks = t.maskedRows == kRowsUniform && MayMaskWholeRows(p) ? 0 : 1;

  t.splits = 1;
  t.taskRun = !chip.split && t.valueDepth < 16;  // how many, once the blocks are known
  bool fits = Block(p, chip, &t);
  if (!fits && t.innerHalf) {  // which takes a buffer more; fp32 is never worse
    t.innerHalf = 0;
    fits = Block(p, chip, &t);
  }
  if (!fits) {
    return (Rejection() << "the buffers do not fit in a UB of " << chip.ub_bytes << " bytes")
        .To(why);
  }
  t.loadKeys = 2 * t.panelKeys;
  if (L1Bytes(t) > chip.l1_bytes - 256 || t.stepColumns < t.loadKeys) t.loadKeys = t.panelKeys;
  Count(&t);
  t.splitColumns = static_cast<uint32_t>(RoundUp(t.kvLen, t.stepColumns));
  if (chip.split) Split(chip, &t);
  t.cores = t.tasks < chip.cube_cores ? t.tasks : chip.cube_cores;
  if (!chip.split && t.valueDepth < 16) Own(&t);
  uint64_t workspace = 0;
  if (chip.split) {
    t.scoresSlot = RoundUp(static_cast<uint64_t>(t.blockRows) * t.stepColumns * ScoreBytes(t), 512);
    t.probsSlot = RoundUp(static_cast<uint64_t>(t.blockRows) * t.stepColumns * 2, 512);
    t.partsSlot = RoundUp(static_cast<uint64_t>(t.blockRows) * PartColumns(t) * 4, 512);
    t.scoresOffset = 0;
    t.probsOffset = Slots(true) * t.scoresSlot;
    t.partsOffset = t.probsOffset + Slots(true) * t.probsSlot;
    t.coreBytes = t.partsOffset + Slots(true) * t.partsSlot;
    t.splitOffset = t.coreBytes * t.cores;
    t.splitBytes = RoundUp(
        static_cast<uint64_t>(t.blockRows / 2) * (PartColumns(t) + (t.lse ? 16 : 8)) * 4, 512);
    workspace = t.splitOffset + (t.splits > 1 ? 2 * t.tasks * t.splitBytes : 0);
  }
  *tiling = t;
  plan->tiling_key = 0;
  plan->block_dim = t.cores;
  plan->workspace_bytes = workspace;
  return true;
}

}  // namespace omfuse
