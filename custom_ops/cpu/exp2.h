// 2^f for f in [-0.5, 0.5]: the polynomial inside Exp2NonPositive of every instruction set.
#pragma once

namespace omfuse {

// Degree 6, relative error 1.9e-9 (a Lawson fit).
constexpr float kExp2Coefficients[7] = {1.0f,
                                        0.6931471824645996f,
                                        0.24022646248340607f,
                                        0.05550328642129898f,
                                        0.009618489071726799f,
                                        0.0013399932067841291f,
                                        0.0001534580806037411f};

template <class V>
inline V Exp2Polynomial(V f) {
  V p = V::Set(kExp2Coefficients[6]);
  for (int i = 5; i >= 0; --i) p = V::MulAdd(p, f, V::Set(kExp2Coefficients[i]));
  return p;
}

}  // namespace omfuse
