// Copies the keys and values of one head to the panels that `multiply` reads.
#ifndef PRECAST_PANELS_H
#define PRECAST_PANELS_H

#include <algorithm>

#include "tile.h"

namespace precast {

// Transposes 16 rows of 16 four-byte numbers.
inline void transpose16(__m512i (&rows)[16]) {
  __m512i a[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xdd);
  }
}

inline int32_t four_bytes(const float* at, int64_t) {
  int32_t found;
  __builtin_memcpy(&found, at, 4);
  return found;
}

// `count` numbers of a row from `at` on, as groups of four bytes, padded with zeros.
inline __m512i groups_of(const float* at, int64_t count) { return _mm512_castps_si512(load(at, first_lanes(count))); }

inline __m512i groups_of(const BFloat16* at, int64_t count) {
  const uint64_t live = count >= 32 ? 0xffffffffull : (1ull << (count < 0 ? 0 : count)) - 1;
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>(live), at);
}

// keys [count][size] -> panels [size / GROUP][width][GROUP], `width` a multiple of 16, padded with zeros.
template <class Type>
inline void lay_keys(const typename Type::A* keys, int64_t stride, int64_t count, int64_t size, int64_t width,
                     typename Type::A* into) {
  constexpr int64_t WIDE = LANES * Type::GROUP;
  const int64_t groups = (size + Type::GROUP - 1) / Type::GROUP;
  for (int64_t key = 0; key < width; key += LANES)
    for (int64_t group = 0; group < groups; group += LANES) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int at = 0; at < 16; ++at) {
        const int64_t left = key + at < count ? size - group * Type::GROUP : 0;
        rows[at] = left > 0 ? groups_of(keys + (key + at) * stride + group * Type::GROUP, std::min(left, WIDE))
                            : _mm512_setzero_si512();
      }
      transpose16(rows);
      for (int64_t at = 0; at < std::min<int64_t>(LANES, groups - group); ++at)
        _mm512_storeu_si512(into + ((group + at) * width + key) * Type::GROUP, rows[at]);
    }
}

inline __m512i side_by_side(__m512i even, __m512i odd) {
  return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

// values [count][size] -> panels [padded / GROUP][width][GROUP], `width` a multiple of 16, padded with zeros.
inline void lay_values(const float* values, int64_t stride, int64_t count, int64_t padded, int64_t size, int64_t width,
                       float* into) {
  for (int64_t row = 0; row < padded; ++row)
    for (int64_t at = 0; at < width; at += LANES) {
      const __mmask16 live = row < count ? first_lanes(size - at) : __mmask16(0);
      store(into + row * width + at, load(values + row * stride + at, live));
    }
}

inline void lay_values(const BFloat16* values, int64_t stride, int64_t count, int64_t padded, int64_t size,
                       int64_t width, BFloat16* into) {
  for (int64_t row = 0; row < padded; row += 2)
    for (int64_t at = 0; at < width; at += LANES) {
      const __mmask16 live = first_lanes(size - at);
      const __mmask16 even_live = row < count ? live : __mmask16(0), odd_live = row + 1 < count ? live : __mmask16(0);
      const BFloat16* here = values + row * stride + at;
      const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(even_live, here));
      const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(odd_live, here + stride));
      _mm512_storeu_si512(into + row * width + 2 * at, side_by_side(even, odd));
    }
}

}  // namespace precast

#endif
