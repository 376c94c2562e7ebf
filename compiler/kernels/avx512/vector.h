// Sixteen numbers at a time: loads, stores and elementwise functions.
#ifndef PRECAST_VECTOR_H
#define PRECAST_VECTOR_H

#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <c10/util/BFloat16.h>

namespace precast {

using c10::BFloat16;

constexpr int LANES = 16;

inline int64_t up_to(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

inline __mmask16 first_lanes(int64_t count) {
  return count >= LANES ? __mmask16(0xffff) : __mmask16((1u << (count < 0 ? 0 : count)) - 1);
}

// Loads as fp32; lanes outside the mask are not read and become zero.
inline __m512 load(const float* at, __mmask16 mask = 0xffff) { return _mm512_maskz_loadu_ps(mask, at); }

inline __m512 load(const BFloat16* at, __mmask16 mask = 0xffff) {
  const __m256i halves = _mm256_maskz_loadu_epi16(mask, at);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline void store(float* at, __m512 value, __mmask16 mask = 0xffff) { _mm512_mask_storeu_ps(at, mask, value); }

inline void store(BFloat16* at, __m512 value, __mmask16 mask = 0xffff) {
#ifdef __AVX512BF16__
  _mm256_mask_storeu_epi16(at, mask, (__m256i)_mm512_cvtneps_pbh(value));
#else
  // To the nearest, ties to even; a NaN stays one.
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  _mm256_mask_storeu_epi16(at, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
#endif
}

// The polynomial with these coefficients, highest power first.
template <size_t COUNT>
inline __m512 polynomial(__m512 x, const float (&coefficients)[COUNT]) {
  __m512 sum = _mm512_set1_ps(coefficients[0]);
#pragma GCC unroll 16
  for (size_t at = 1; at < COUNT; ++at) sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(coefficients[at]));
  return sum;
}

// Functions are as accurate as the type that the result is rounded to, `Number`, requires. All
// polynomials are minimax approximations for their number of coefficients.
template <class Number>
constexpr bool COARSE = sizeof(Number) == 2;

constexpr float LOG2_E = 1.44269504f;

// 2 to the power of x, with a relative error below 1e-6, or 8e-5 for bf16 results; NaN stays NaN.
template <class Number>
inline __m512 power_of_two(__m512 x) {
  // The bound is far below the range of fp32, so that the result is zero, and removes -infinity.
  const __m512 bounded = _mm512_max_ps(_mm512_set1_ps(-1500.0f), x);
  const __m512 power = _mm512_roundscale_ps(bounded, 0), rest = _mm512_sub_ps(bounded, power);
  constexpr float COARSE_ONE[] = {5.517166936e-2f, 2.426111314e-1f, 6.932609862e-1f, 9.999280730e-1f};
  constexpr float FINE[] = {1.327647203e-3f, 9.675541480e-3f, 5.550713275e-2f,
                            2.402211972e-1f, 6.931469671e-1f, 1.000000072f};
  if constexpr (COARSE<Number>) return _mm512_scalef_ps(polynomial(rest, COARSE_ONE), power);
  return _mm512_scalef_ps(polynomial(rest, FINE), power);
}

// e to the power of x; in fp32 with a relative error below 2e-6 for x above -20 (and 1e-5 below).
template <class Number>
inline __m512 exponential(__m512 x) {
  return power_of_two<Number>(_mm512_mul_ps(x, _mm512_set1_ps(LOG2_E)));
}

template <class Number>
inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, power_of_two<Number>(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)))));
}

inline __m512 hyperbolic_tangent(__m512 x) {
  const __m512 twice = _mm512_add_ps(x, x);
  return _mm512_fmsub_ps(_mm512_set1_ps(2.0f), sigmoid<float>(twice), _mm512_set1_ps(1.0f));
}

// x times the normal distribution's share below x, which is 1/2 + x p(x^2) up to |x| = 5 and constant beyond.
// The error is at most 3e-6.
inline __m512 fine_gelu(__m512 x) {
  constexpr float P[] = {-1.096364853e-03f, 3.194463533e-03f,  -3.886850742e-03f, 5.113255992e-03f,
                         -1.016547137e-02f, 1.691014404e-02f,  -2.362494686e-02f, 3.135672219e-02f,
                         -4.039198491e-02f, 5.152539726e-02f, -7.029823276e-02f, 1.413637479e-01f};
  const __m512 five = _mm512_set1_ps(5.0f);
  const __m512 bounded = _mm512_min_ps(five, _mm512_max_ps(_mm512_set1_ps(-5.0f), x));
  const __m512 t = _mm512_fmadd_ps(_mm512_mul_ps(bounded, bounded), _mm512_set1_ps(0.08f), _mm512_set1_ps(-1.0f));
  // Far to the left the result is exactly zero, not a multiple of the error; NaN stays NaN.
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-5.5f), _CMP_NLT_UQ);
  return _mm512_maskz_mul_ps(counts, x, _mm512_fmadd_ps(bounded, polynomial(t, P), _mm512_set1_ps(0.5f)));
}

// max(x, 0) minus a correction that depends only on |x| and is zero from 4 on; the error is at most 2e-4.
inline __m512 coarse_gelu(__m512 x) {
  constexpr float P[] = {-6.326890033e-04f, -7.940551796e-03f, -3.470336527e-02f, -6.813438069e-02f,
                         -7.128392192e-02f, -3.269408461e-02f, -6.352975905e-03f};
  const __m512 four = _mm512_set1_ps(4.0f);
  const __m512 left = _mm512_sub_ps(_mm512_min_ps(four, _mm512_abs_ps(x)), four);
  return _mm512_fnmadd_ps(left, polynomial(left, P), _mm512_max_ps(_mm512_setzero_ps(), x));
}

struct Identity {
  template <class Number>
  static __m512 apply(__m512 x) {
    return x;
  }
};
struct Gelu {
  template <class Number>
  static __m512 apply(__m512 x) {
    return COARSE<Number> ? coarse_gelu(x) : fine_gelu(x);
  }
};
struct GeluTanh {
  template <class Number>
  static __m512 apply(__m512 x) {
    const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const __m512 inner = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
    // (1 + tanh(y)) / 2 is the sigmoid of 2 y.
    return _mm512_mul_ps(x, sigmoid<Number>(_mm512_mul_ps(inner, _mm512_set1_ps(1.595769122f))));
  }
};
struct GeluQuick {
  template <class Number>
  static __m512 apply(__m512 x) {
    return _mm512_mul_ps(x, sigmoid<Number>(_mm512_mul_ps(x, _mm512_set1_ps(1.702f))));
  }
};
struct Silu {
  template <class Number>
  static __m512 apply(__m512 x) {
    return _mm512_mul_ps(x, sigmoid<Number>(x));
  }
};
struct Relu {
  template <class Number>
  static __m512 apply(__m512 x) {
    return _mm512_max_ps(_mm512_setzero_ps(), x);  // NaN stays NaN
  }
};
struct Tanh {
  template <class Number>
  static __m512 apply(__m512 x) {
    return hyperbolic_tangent(x);
  }
};
struct Sigmoid {
  template <class Number>
  static __m512 apply(__m512 x) {
    return sigmoid<Number>(x);
  }
};

}  // namespace precast

#endif
