// The query rows of a task: whose they are, and which keys they may see.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "problem.h"
#include "simd.h"

namespace omfuse {
namespace {

constexpr int kLanes = Vec::kWidth * Vec::kVectors;

struct Rows {  // what differs from lane to lane
  int64_t head[kLanes], query[kLanes];
  alignas(64) float low[kLanes], high[kLanes];
  int64_t first_key, end_key;    // keys that some lane keeps
  int64_t full_first, full_end;  // keys that every lane keeps, as far as intervals go
};

Rows FindRows(const Problem& p, int64_t b, int64_t kv_head, int64_t first, int count, int lanes) {
  Rows rows;
  const int64_t group = p.heads / p.kv_heads;
  const int64_t valid =
      p.kv_lengths ? std::min<int64_t>(std::max(p.kv_lengths[b], 0), p.kv_len) : p.kv_len;
  const int64_t offset = p.bottom_right ? (p.kv_lengths ? p.kv_lengths[b] : p.kv_len) - p.q_len : 0;
  rows.first_key = p.kv_len, rows.end_key = 0;
  rows.full_first = 0, rows.full_end = p.kv_len;
  for (int i = 0; i < lanes; ++i) {
    const int64_t row = first + std::min(i, count - 1);  // lanes too many repeat the last row
    rows.head[i] = kv_head * group + row / p.q_len;
    rows.query[i] = row % p.q_len;
    const int64_t position = rows.query[i] + offset;
    int64_t low = 0, end = valid;
    if (p.causal) end = std::min(end, position + 1);
    if (p.window_right >= 0) end = std::min(end, position + p.window_right + 1);
    if (p.window_left >= 0) low = std::max<int64_t>(low, position - p.window_left);
    end = std::max<int64_t>(end, 0);
    rows.low[i] = static_cast<float>(low);
    rows.high[i] = static_cast<float>(end - 1);
    if (low < end) {
      rows.first_key = std::min(rows.first_key, low);
      rows.end_key = std::max(rows.end_key, end);
    }
    rows.full_first = std::max(rows.full_first, low);
    rows.full_end = std::min(rows.full_end, end);
  }
  return rows;
}

int64_t Offset(const View& view, int64_t b, int64_t h, int64_t s) {
  return b * view.stride[0] + h * view.stride[1] + s * view.stride[2];
}

bool KeepsAnything(const Problem& p, const Rows& rows, int64_t b, int i) {
  for (int64_t k = static_cast<int64_t>(rows.low[i]); k <= static_cast<int64_t>(rows.high[i]);
       ++k) {
    if (!p.mask.data) return true;
    const int64_t at = Offset(p.mask, b, rows.head[i], rows.query[i]) + k * p.mask.stride[3];
    if (static_cast<const uint8_t*>(p.mask.data)[at]) return true;
  }
  return false;
}

float MeanValue(const Problem& p, int64_t base, int64_t e) {
  double sum = 0;
  for (int64_t k = 0; k < p.kv_len; ++k) {
    sum += Load(p.value.data, base + k * p.value.stride[2] + e, p.type);
  }
  return static_cast<float>(sum / static_cast<double>(p.kv_len));
}

// What the rows of a task share: batch row, key/value head and where its keys and values begin.
struct Task {
  int64_t batch, kv_head, k_base, v_base;
};

// Replaces the result of rows that keep no key, and writes the log-sum-exp of each row.
void Finish(const Problem& p, const Task& task, const Rows& rows, int count, const float* top,
            const float* total) {
  for (int i = 0; i < count; ++i) {
    const bool empty = top[i] == -INFINITY && !p.sink && !KeepsAnything(p, rows, task.batch, i);
    if (empty && p.masked_rows != MaskedRows::kNan) {
      const int64_t at = Offset(p.out, task.batch, rows.head[i], rows.query[i]);
      for (int64_t e = 0; e < p.v_depth; ++e) {
        const float fill = p.masked_rows == MaskedRows::kZero ? 0.0f : MeanValue(p, task.v_base, e);
        Store(const_cast<void*>(p.out.data), at + e, p.type, fill);
      }
    }
    if (p.lse) {
      p.lse[(task.batch * p.heads + rows.head[i]) * p.q_len + rows.query[i]] =
          empty ? -INFINITY : top[i] + std::log(total[i]);
    }
  }
}

}  // namespace
}  // namespace omfuse
