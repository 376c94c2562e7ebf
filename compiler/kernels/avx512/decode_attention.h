// One step of a decoder: each row attends to keys and values where they lie in the kv_cache.
#ifndef PRECAST_DECODE_ATTENTION_H
#define PRECAST_DECODE_ATTENTION_H

#include <numeric>

#include "threads.h"
#include "vector.h"

namespace precast {

// [slots][heads][head_dim], keys or values of one layer.
template <class Number>
struct KVCaches {
  const Number* keys;
  const Number* values;
};

struct StepSizes {
  int64_t rows, heads, head_dim;
  // Numbers from one row of the query to the next.
  int64_t stride;
  // Columns of the table of slots; how many more keys than `counts` says a row sees.
  int64_t longest, more;
  // Of the bias, [heads][2 * reach + 1]; by the distance from the row's position, `counts`, to the key.
  int64_t reach;
  float scale;
};

// Adds the numbers of each of 16 registers: lane i of the result is the sum of `rows[i]`.
inline __m512 sums_of(__m512 (&rows)[16]) {
  // Halves of two registers side by side, then added: 16 registers become 8, 4, 2 and 1.
  __m512 pairs[8], fours[4], eights[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]),
                             _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d even = _mm512_castps_pd(pairs[2 * i]), odd = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(even, odd)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd)));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                              _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(eights[0], eights[1], 0x88),
                       _mm512_shuffle_f32x4(eights[0], eights[1], 0xdd));
}

inline __m512 add_product(__m512 sum, const float* a, const float* b, int64_t left) {
  const __mmask16 live = first_lanes(left);
  return _mm512_fmadd_ps(load(a, live), load(b, live), sum);
}

#ifdef __AVX512BF16__
inline __m512 add_product(__m512 sum, const BFloat16* a, const BFloat16* b, int64_t left) {
  const __mmask32 live = left >= 32 ? 0xffffffffu : (1u << (left < 0 ? 0 : left)) - 1;
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(live, a),
                          (__m512bh)_mm512_maskz_loadu_epi16(live, b));
}
#endif

// Numbers of a register of the product's factors.
template <class Number>
constexpr int64_t FACTORS = 64 / sizeof(Number);

// Scores of up to 16 keys, not yet scaled.
template <class Number>
inline __m512 score_keys(const Number* query, const Number* keys, int64_t place_size, const int32_t* slots,
                         int64_t count, int64_t size) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int key = 0; key < 16; ++key) {
    sums[key] = _mm512_setzero_ps();
    if (key >= count) continue;
    const Number* at = keys + slots[key] * place_size;
    for (int64_t part = 0; part < size; part += FACTORS<Number>)
      sums[key] = add_product(sums[key], query + part, at + part, size - part);
  }
  return sums_of(sums);
}

// Scores become weights that add up to one; `scores` has room for whole registers.
inline void to_weights(float* scores, int64_t count) {
  __m512 highest = _mm512_set1_ps(-INFINITY);
  for (int64_t at = 0; at < count; at += LANES) {
    const __m512 found = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), first_lanes(count - at), scores + at);
    highest = _mm512_max_ps(highest, found);
    store(scores + at, found);
  }
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
  __m512 total = _mm512_setzero_ps();
  for (int64_t at = 0; at < count; at += LANES) {
    const __m512 weight = exponential<float>(_mm512_sub_ps(load(scores + at), top));
    total = _mm512_add_ps(total, weight);
    store(scores + at, weight);
  }
  const __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
  for (int64_t at = 0; at < count; at += LANES) store(scores + at, _mm512_mul_ps(load(scores + at), share));
}

// Adds the weighted values of some keys to up to 64 numbers of `sums`.
template <class Number, int WIDE>
inline void add_values(const Number* values, int64_t place_size, const int32_t* slots, const float* weights,
                       int64_t count, int64_t size, float* sums) {
  __m512 held[WIDE];
#pragma GCC unroll 4
  for (int part = 0; part < WIDE; ++part) held[part] = load(sums + part * LANES);
  for (int64_t key = 0; key < count; ++key) {
    const Number* value = values + slots[key] * place_size;
    const __m512 weight = _mm512_set1_ps(weights[key]);
#pragma GCC unroll 4
    for (int part = 0; part < WIDE; ++part)
      held[part] = _mm512_fmadd_ps(weight, load(value + part * LANES, first_lanes(size - part * LANES)), held[part]);
  }
#pragma GCC unroll 4
  for (int part = 0; part < WIDE; ++part) store(sums + part * LANES, held[part]);
}

// Reads `size` numbers at each of up to 16 slots, and does nothing with them but to have them in the first cache.
// Stretches that are read from one end to the other come from memory at its speed. Heads that each want a piece of
// 16 stretches wait for every piece, even where it was prefetched.
template <class Number>
inline void fetch(const Number* cache, int64_t place_size, const int32_t* slots, int64_t count, int64_t size) {
  __m512i all = _mm512_setzero_si512();
  for (int64_t key = 0; key < count; ++key) {
    const Number* at = cache + slots[key] * place_size;
    for (int64_t part = 0; part + FACTORS<Number> <= size; part += FACTORS<Number>)
      all = _mm512_or_si512(all, _mm512_loadu_si512(at + part));
  }
  asm volatile("" ::"v"(all));  // so that it is not left out
}

// Some heads of one row. Keys are taken 16 at a time, all heads of each: a place is one stretch of memory.
template <class Number>
struct StepRow {
  const Number* query;
  KVCaches<Number> kv_cache;
  const int32_t* slots;
  const float* bias;
  // Of the first of `copies` rows that are all the same.
  Number* output;
  int64_t copies;
  const StepSizes& sizes;
  int64_t position, count, first_head, last_head;
  // [heads][width] and [heads][padded head_dim].
  float* scores;
  float* sums;
  int64_t width, padded;

  int64_t place_size() const { return sizes.heads * sizes.head_dim; }

  // The heads' part of some slots.
  void fetch_heads(const Number* cache, int64_t key, int64_t some) const {
    fetch(cache + first_head * sizes.head_dim, place_size(), slots + key, some,
          (last_head - first_head) * sizes.head_dim);
  }

  void score() const {
    for (int64_t key = 0; key < count; key += LANES) {
      const int64_t some = std::min<int64_t>(LANES, count - key);
      fetch_heads(kv_cache.keys, key, some);
      for (int64_t head = first_head; head < last_head; ++head) {
        const int64_t at = head * sizes.head_dim;
        __m512 found = score_keys(query + at, kv_cache.keys + at, place_size(), slots + key, some, sizes.head_dim);
        found = _mm512_mul_ps(found, _mm512_set1_ps(sizes.scale));
        if (bias != nullptr) found = _mm512_add_ps(found, bias_of(head, key));
        store(scores + head * width + key, found);
      }
    }
  }

  __m512 bias_of(int64_t head, int64_t key) const {
    const auto all = [](int64_t number) { return _mm512_set1_epi32(static_cast<int32_t>(number)); };
    const __m512i counting = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i distance = _mm512_add_epi32(all(key - position), counting);
    const __m512i at = _mm512_min_epi32(_mm512_max_epi32(distance, all(-sizes.reach)), all(sizes.reach));
    return _mm512_i32gather_ps(at, bias + head * (2 * sizes.reach + 1) + sizes.reach, sizeof(float));
  }

  void gather() const {
    std::fill(sums + first_head * padded, sums + last_head * padded, 0.0f);
    for (int64_t key = 0; key < count; key += LANES) {
      const int64_t some = std::min<int64_t>(LANES, count - key);
      fetch_heads(kv_cache.values, key, some);
      for (int64_t head = first_head; head < last_head; ++head) {
        const Number* values = kv_cache.values + head * sizes.head_dim;
        const float* weights = scores + head * width + key;
        float* into = sums + head * padded;
        int64_t part = 0;
        for (; part + 4 * LANES <= padded; part += 4 * LANES)
          add_values<Number, 4>(values + part, place_size(), slots + key, weights, some, sizes.head_dim - part,
                                into + part);
        for (; part < padded; part += LANES)
          add_values<Number, 1>(values + part, place_size(), slots + key, weights, some, sizes.head_dim - part,
                                into + part);
      }
    }
  }

  void run() const {
    score();
    for (int64_t head = first_head; head < last_head; ++head) to_weights(scores + head * width, count);
    gather();
    for (int64_t head = first_head; head < last_head; ++head) write(head);
  }

  void write(int64_t head) const {
    for (int64_t copy = 0; copy < copies; ++copy) {
      Number* to = output + copy * place_size() + head * sizes.head_dim;
      for (int64_t at = 0; at < sizes.head_dim; at += LANES)
        store(to + at, load(sums + head * padded + at), first_lanes(sizes.head_dim - at));
    }
  }
};

// How many rows there are, if those at the end that repeat the one before count as one.
inline int64_t distinct(const int32_t* rows, int64_t count) {
  while (count > 1 && rows[count - 1] == rows[count - 2]) --count;
  return count;
}

// Into how many parts the heads of a row go, so that threads have as much to do as each other. Where rows are many
// it does not matter, and a place is read in one piece.
inline int64_t parts_of(int64_t heads, int64_t rows, int64_t threads) {
  return rows < 4 * threads ? std::min(heads, threads / std::gcd(rows, threads)) : 1;
}

// Args: `query` [rows][heads][head_dim] with contiguous heads; `slots` [N][longest]; `rows` [rows], which of
// the N rows, where one that fills up repeats the last, query and all; `counts` [N]; `bias` fp32 or null; `output`
// [rows][heads * head_dim], zeros where no key is seen.
template <class Number>
inline void decode_attention(const Number* query, KVCaches<Number> kv_cache, const int32_t* slots, const int32_t* rows,
                           const int32_t* counts, const float* bias, Number* output, StepSizes sizes) {
  const int64_t place_size = sizes.heads * sizes.head_dim, different = distinct(rows, sizes.rows);
  const auto keys_of = [&](int64_t row) { return std::min<int64_t>(counts[row] + sizes.more, sizes.longest); };
  int64_t most = 0;
  for (int64_t at = 0; at < different; ++at) most = std::max(most, keys_of(rows[at]));
  const int64_t width = up_to(most, LANES), padded = up_to(sizes.head_dim, LANES);
#pragma omp parallel
  {
    const int64_t threads = omp_get_num_threads(), parts = parts_of(sizes.heads, different, threads);
    Scratch<float> scores(sizes.heads * width), sums(sizes.heads * padded);
    const Share share = share_of(different * parts, omp_get_thread_num(), threads);
    for (int64_t piece = share.begin; piece < share.end; ++piece) {
      const int64_t at = piece / parts, row = rows[at];
      const Share heads = share_of(sizes.heads, piece % parts, parts);
      const int64_t copies = at == different - 1 ? sizes.rows - at : 1;
      StepRow<Number>{query + at * sizes.stride, kv_cache, slots + row * sizes.longest, bias, output + at * place_size,
                      copies, sizes, counts[row], keys_of(row), heads.begin, heads.end, scores.get(), sums.get(),
                      width, padded}
          .run();
    }
  }
}

}  // namespace precast

#endif
