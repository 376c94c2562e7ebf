// Sixteen numbers at a time: loading, storing, and the functions that kernels apply to them.
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

inline __mmask16 first_lanes(int64_t count) {
  return count >= LANES ? __mmask16(0xffff) : __mmask16((1u << (count < 0 ? 0 : count)) - 1);
}

// As fp32; lanes outside the mask are not read and become zero.
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

// e to the power of x, with a relative error below 2e-6 for x above -20 (and 1e-5 below); NaN stays NaN.
inline __m512 exponential(__m512 x) {
  // Far below what fp32 can hold, so that the result is zero, and -infinity is none.
  const __m512 bounded = _mm512_max_ps(_mm512_set1_ps(-1000.0f), x);
  const __m512 twos = _mm512_mul_ps(bounded, _mm512_set1_ps(1.44269504f));
  const __m512 power = _mm512_roundscale_ps(twos, 0), rest = _mm512_sub_ps(twos, power);
  // 2 to the power of rest, which is between -1/2 and 1/2: the polynomial with the least relative error.
  __m512 sum = _mm512_set1_ps(1.327647012e-3f);
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(9.675541319e-3f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.550713279e-2f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(2.402211972e-1f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(6.931469671e-1f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.000000072f));
  return _mm512_scalef_ps(sum, power);
}

inline __m512 reciprocal(__m512 x) {
  const __m512 rough = _mm512_rcp14_ps(x);
  return _mm512_mul_ps(rough, _mm512_fnmadd_ps(x, rough, _mm512_set1_ps(2.0f)));
}

inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

inline __m512 hyperbolic_tangent(__m512 x) {
  const __m512 twice = _mm512_add_ps(x, x);
  return _mm512_fmsub_ps(_mm512_set1_ps(2.0f), sigmoid(twice), _mm512_set1_ps(1.0f));
}

// x times the normal distribution's share below x. The error function is that of Abramowitz and Stegun,
// 7.1.26: an absolute error below 1.5e-7.
inline __m512 gelu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.707106781f));
  const __m512 t = reciprocal(_mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
  __m512 sum = _mm512_set1_ps(1.061405429f);
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-1.453152027f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(1.421413741f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.284496736f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.254829592f));
  const __m512 bell = exponential(_mm512_fnmadd_ps(z, z, _mm512_setzero_ps()));
  const __m512 beyond = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(sum, t), bell), _mm512_set1_ps(0.5f));
  const __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512 share = _mm512_mask_mov_ps(_mm512_sub_ps(one, beyond), below, beyond);
  return _mm512_mul_ps(x, share);
}

inline __m512 gelu_tanh(__m512 x) {
  const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
  const __m512 inner = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
  // (1 + tanh(y)) / 2 is the sigmoid of 2 y.
  return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(inner, _mm512_set1_ps(1.595769122f))));
}

struct Identity {
  static __m512 apply(__m512 x) { return x; }
};
struct Gelu {
  static __m512 apply(__m512 x) { return gelu(x); }
};
struct GeluTanh {
  static __m512 apply(__m512 x) { return gelu_tanh(x); }
};
struct GeluQuick {
  static __m512 apply(__m512 x) { return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(x, _mm512_set1_ps(1.702f)))); }
};
struct Silu {
  static __m512 apply(__m512 x) { return _mm512_mul_ps(x, sigmoid(x)); }
};
struct Relu {
  static __m512 apply(__m512 x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }  // NaN stays NaN
};
struct Tanh {
  static __m512 apply(__m512 x) { return hyperbolic_tangent(x); }
};
struct Sigmoid {
  static __m512 apply(__m512 x) { return sigmoid(x); }
};

}  // namespace precast

#endif
