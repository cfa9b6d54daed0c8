// Flash attention on the CPU: one task computes a block of query rows against all its keys.
//
// Query heads that share a key/value head are rows of the same tasks.  The cut into tasks depends
// on sizes only, so results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "narrow.h"
#include "problem.h"
#include "wide.h"

namespace omfuse {
namespace {

// With one vector of rows every product would need a load of its own: two vectors at least.
constexpr int64_t kFewTasks = 64, kTwoVectors = Vec::kWidth < 8 ? 16 : 2 * Vec::kWidth;
constexpr int64_t kSmallTask = kLanes < kTwoVectors ? kLanes : kTwoVectors;

int64_t RowsOfHead(const Problem& p) { return p.heads / p.kv_heads * p.q_len; }

// Tasks of full width read K and V least often; where they are few, smaller ones keep all threads
// busy to the end.
int64_t RowsOfTask(const Problem& p) {
  const int64_t wide = (RowsOfHead(p) + kLanes - 1) / kLanes * p.kv_heads * p.batch;
  return wide < kFewTasks ? kSmallTask : kLanes;
}

int64_t RowBlocks(const Problem& p) {
  const int64_t rows = RowsOfTask(p);
  return (RowsOfHead(p) + rows - 1) / rows;
}

int64_t Tasks(const Problem& p) { return p.batch * p.kv_heads * RowBlocks(p); }

size_t ScratchFloats(const Problem& p) { return std::max(WideScratch(p), NarrowScratch(p)); }

template <int N>
void RunWith(int vectors, const Problem& p, const Task& task, const Rows& rows, int count,
             float* scratch) {
  if constexpr (N > 0) {
    if (vectors == N) {
      RunWide<N>(p, task, rows, count, scratch);
    } else {
      RunWith<N - 1>(vectors, p, task, rows, count, scratch);
    }
  }
}

void Run(const Problem& p, int64_t number, float* scratch) {
  const int64_t blocks = RowBlocks(p);
  const int64_t block = blocks - 1 - number % blocks;  // causal blocks with most keys go first
  Task task;
  task.kv_head = number / blocks % p.kv_heads;
  task.batch = number / blocks / p.kv_heads;
  task.k_base = Offset(p.key, task.batch, task.kv_head, 0);
  task.v_base = Offset(p.value, task.batch, task.kv_head, 0);
  const int64_t height = RowsOfTask(p), first = block * height;
  const int count = static_cast<int>(std::min(height, RowsOfHead(p) - first));
  const int rest = count % Vec::kWidth;  // rows too few to fill a vector
  const int narrow = rest <= kNarrowRows ? rest : 0, wide = count - narrow;
  if (wide) {
    const int vectors = (wide + Vec::kWidth - 1) / Vec::kWidth;
    const Rows rows = FindRows(p, task.batch, task.kv_head, first, wide, vectors * Vec::kWidth);
    RunWith<Vec::kVectors>(vectors, p, task, rows, wide, scratch);
  }
  if (narrow) {
    const Rows rows = FindRows(p, task.batch, task.kv_head, first + wide, narrow, narrow);
    RunNarrow(p, task, rows, narrow, scratch);
  }
}

}  // namespace
}  // namespace omfuse
