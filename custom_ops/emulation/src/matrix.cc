// The arithmetic of Mmad: fp32 products summed in the order of k.
#include <cstdint>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define OMFUSE_WIDE \
  __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3", "fp-contract=off")))
#else
#define OMFUSE_WIDE
#endif

namespace omfuse_emu {

OMFUSE_WIDE
static void Accumulate(float* c, const float* a, const float* b, uint32_t n, uint32_t k) {
  // c[16][n] += a[16][k] * b[k][n]
  for (uint32_t r = 0; r < 16; ++r) {
    float* row = c + uint64_t{r} * n;
    for (uint32_t i = 0; i < k; ++i) {
      const float left = a[uint64_t{r} * k + i];
      const float* right = b + uint64_t{i} * n;
      for (uint32_t j = 0; j < n; ++j) row[j] += left * right[j];
    }
  }
}

void MatrixMultiply(float* c, const float* a, const float* b, uint32_t m, uint32_t n, uint32_t k,
                    bool zero) {
  const uint32_t kb = k / 16, nb = n / 16;
  std::vector<float> right(uint64_t{k} * n), left(uint64_t{16} * k), sums(uint64_t{16} * n);
  for (uint32_t i = 0; i < kb; ++i) {
    for (uint32_t j = 0; j < nb; ++j) {
      const float* fractal = b + (uint64_t{i} * nb + j) * 256;
      for (uint32_t col = 0; col < 16; ++col) {
        for (uint32_t row = 0; row < 16; ++row) {
          right[uint64_t{i * 16 + row} * n + j * 16 + col] = fractal[col * 16 + row];
        }
      }
    }
  }
  for (uint32_t block = 0; block < m / 16; ++block) {
    for (uint32_t i = 0; i < kb; ++i) {
      const float* fractal = a + (uint64_t{block} * kb + i) * 256;
      for (uint32_t row = 0; row < 16; ++row) {
        for (uint32_t col = 0; col < 16; ++col) {
          left[uint64_t{row} * k + i * 16 + col] = fractal[row * 16 + col];
        }
      }
    }
    for (uint32_t j = 0; j < nb; ++j) {
      const float* out = c + (uint64_t{j} * m + block * 16) * 16;
      for (uint32_t row = 0; row < 16; ++row) {
        for (uint32_t col = 0; col < 16; ++col) {
          sums[uint64_t{row} * n + j * 16 + col] = zero ? 0.0f : out[row * 16 + col];
        }
      }
    }
    Accumulate(sums.data(), left.data(), right.data(), n, k);
    for (uint32_t j = 0; j < nb; ++j) {
      float* out = c + (uint64_t{j} * m + block * 16) * 16;
      for (uint32_t row = 0; row < 16; ++row) {
        for (uint32_t col = 0; col < 16; ++col) {
          out[row * 16 + col] = sums[uint64_t{row} * n + j * 16 + col];
        }
      }
    }
  }
}

}  // namespace omfuse_emu
