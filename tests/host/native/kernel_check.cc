// Runs random problems through the kernel of this processor and a plain loop in double.
//
// Every tensor ends exactly where its memory ends, so that a sanitizer sees a read beyond it; built
// for another processor the program needs nothing of it but an emulator.  Prints the worst error
// in units of the largest value; argument: the number of problems.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "convert.h"
#include "problem.h"

namespace omfuse {
namespace {

std::mt19937 random_bits(1);

int64_t Draw(std::initializer_list<int64_t> from) {
  return from.begin()[random_bits() % from.size()];
}

bool Often(int of) { return random_bits() % of != 0; }

// A tensor [B, N, S, D] of random numbers; B, N and S of it broadcast where the flag says so.
struct Tensor {
  std::vector<unsigned char> bytes;
  View view;

  Tensor(Type type, const int64_t (&dims)[4], bool rows_outer, const bool (&broadcast)[3]) {
    const int order[4] = {3, rows_outer ? 1 : 2, rows_outer ? 2 : 1, 0};
    int64_t count = 1;
    for (int axis : order) {
      const bool same = axis < 3 && broadcast[axis];
      view.stride[axis] = same ? 0 : count;
      count *= same ? 1 : dims[axis];
    }
    bytes.resize(static_cast<size_t>(count) * (type == Type::kFloat32 ? 4 : 2));
    view.data = bytes.data();
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) Store(bytes.data(), i, type, normal(random_bits));
  }
};

const bool kWhole[3] = {false, false, false};

int64_t At(const View& view, int64_t b, int64_t h, int64_t s, int64_t d) {
  return b * view.stride[0] + h * view.stride[1] + s * view.stride[2] + d * view.stride[3];
}

bool Keeps(const Problem& p, int64_t b, int64_t h, int64_t s, int64_t k) {
  const int64_t valid = p.kv_lengths ? p.kv_lengths[b] : p.kv_len;
  const int64_t position = s + (p.bottom_right ? valid - p.q_len : 0);
  if (k >= valid || (p.causal && k > position)) return false;
  if (p.window_left >= 0 && k < position - p.window_left) return false;
  if (p.window_right >= 0 && k > position + p.window_right) return false;
  return !p.mask.data || static_cast<const uint8_t*>(p.mask.data)[At(p.mask, b, h, s, k)];
}

// One row of the result and its log-sum-exp, in double.
std::vector<double> Expected(const Problem& p, int64_t b, int64_t h, int64_t s, double* lse) {
  const int64_t kv_head = h * p.kv_heads / p.heads;
  std::vector<double> score(static_cast<size_t>(p.kv_len), -INFINITY);
  double top = p.sink ? Load(p.sink, h, p.type) : -INFINITY;
  for (int64_t k = 0; k < p.kv_len; ++k) {
    if (!Keeps(p, b, h, s, k)) continue;
    double x = 0;
    for (int64_t d = 0; d < p.depth; ++d) {
      x += static_cast<double>(Load(p.query.data, At(p.query, b, h, s, d), p.type)) *
           Load(p.key.data, At(p.key, b, kv_head, k, d), p.type);
    }
    x *= p.scale;
    if (p.softcap > 0) x = std::tanh(x / p.softcap) * p.softcap;
    if (p.bias.data) x += Load(p.bias.data, At(p.bias, b, h, s, k), p.type);
    score[k] = x;
    top = std::max(top, x);
  }
  std::vector<double> out(static_cast<size_t>(p.v_depth), 0.0);
  const bool empty = top == -INFINITY;
  double total = p.sink ? std::exp(Load(p.sink, h, p.type) - top) : 0;
  for (int64_t k = 0; k < p.kv_len; ++k) {
    const double weight = empty ? p.masked_rows == MaskedRows::kUniform : std::exp(score[k] - top);
    total += weight;
    for (int64_t e = 0; e < p.v_depth; ++e) {
      out[e] += weight * Load(p.value.data, At(p.value, b, kv_head, k, e), p.type);
    }
  }
  *lse = empty ? -INFINITY : top + std::log(total);
  const bool zero = empty && p.masked_rows == MaskedRows::kZero;
  for (double& x : out) x = zero ? 0 : x / total;
  return out;
}

double Difference(double got, double want) {
  if (got == want || (std::isnan(got) && std::isnan(want))) return 0;
  const double error = std::fabs(got - want);
  return error == error ? error : INFINITY;
}

// Returns the error in units of what the type may lose.
double CheckOne() {
  Problem p;
  p.type = static_cast<Type>(Draw({1, 1, 10, 16}));
  p.batch = Draw({1, 2}), p.kv_heads = Draw({1, 2}), p.heads = p.kv_heads * Draw({1, 1, 3});
  p.q_len = Draw({1, 2, 5, 7, 16, 23, 49, 70}), p.kv_len = Draw({1, 3, 8, 17, 64, 65, 100, 130});
  p.depth = Draw({1, 4, 8, 17, 40, 64}), p.v_depth = Draw({p.depth, p.depth, 5, 33});
  p.scale = 0.25f, p.softcap = Often(3) ? 0.0f : 1.5f;
  p.causal = !Often(3), p.bottom_right = p.causal && Often(2);
  p.window_left = Often(4) ? -1 : 9, p.window_right = Often(4) ? -1 : 4;
  p.masked_rows = static_cast<MaskedRows>(Draw({0, 1, 2}));
  const bool outer[4] = {Often(2), Often(2), Often(2), Often(2)};
  Tensor q(p.type, {p.batch, p.heads, p.q_len, p.depth}, outer[0], kWhole);
  Tensor k(p.type, {p.batch, p.kv_heads, p.kv_len, p.depth}, outer[1], kWhole);
  Tensor v(p.type, {p.batch, p.kv_heads, p.kv_len, p.v_depth}, outer[2], kWhole);
  Tensor out(p.type, {p.batch, p.heads, p.q_len, p.v_depth}, outer[3], kWhole);
  const bool same[2][3] = {{Often(2), Often(2), Often(2)}, {Often(2), Often(2), Often(2)}};
  const int64_t scores[4] = {p.batch, p.heads, p.q_len, p.kv_len};
  Tensor bias(p.type, scores, true, same[0]), noise(Type::kFloat32, scores, true, same[1]);
  Tensor sink(p.type, {1, 1, 1, p.heads}, true, kWhole);
  std::vector<uint8_t> mask(noise.bytes.size() / 4);
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = Often(4);
  std::vector<int32_t> lengths(static_cast<size_t>(p.batch));
  for (int32_t& length : lengths) length = static_cast<int32_t>(random_bits() % (p.kv_len + 1));
  std::vector<float> lse(static_cast<size_t>(p.batch * p.heads * p.q_len));
  p.query = q.view, p.key = k.view, p.value = v.view, p.out = out.view;
  if (!Often(3)) p.bias = bias.view;
  if (!Often(3)) p.mask = noise.view, p.mask.data = mask.data();
  if (!Often(4)) p.sink = sink.view.data;
  if (!Often(4)) p.kv_lengths = lengths.data();
  p.lse = lse.data();
  const Kernel& kernel = BestKernel();
  const size_t floats = kernel.scratch_floats(p);
  auto* scratch = static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64));
  for (int64_t task = 0; task < kernel.tasks(p); ++task) kernel.run(p, task, scratch);
  std::free(scratch);
  const double allowed = p.type == Type::kFloat32 ? 2e-5 : p.type == Type::kFloat16 ? 4e-3 : 3e-2;
  double worst = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t h = 0; h < p.heads; ++h) {
      for (int64_t s = 0; s < p.q_len; ++s) {
        double want_lse;
        const std::vector<double> want = Expected(p, b, h, s, &want_lse);
        for (int64_t e = 0; e < p.v_depth; ++e) {
          const double got = Load(p.out.data, At(p.out, b, h, s, e), p.type);
          worst = std::max(worst, Difference(got, want[e]) / allowed);
        }
        const double got = lse[(b * p.heads + h) * p.q_len + s];
        worst = std::max(worst, Difference(got, want_lse) / 1e-4);
      }
    }
  }
  return worst;
}

}  // namespace
}  // namespace omfuse

int main(int count, char** arguments) {
  const int problems = count > 1 ? std::atoi(arguments[1]) : 100;
  double worst = 0;
  for (int i = 0; i < problems; ++i) worst = std::max(worst, omfuse::CheckOne());
  std::printf("%s %d problems, %.3f of what is allowed\n", omfuse::BestKernel().name, problems,
              worst);
  return worst <= 1 ? 0 : 1;
}
