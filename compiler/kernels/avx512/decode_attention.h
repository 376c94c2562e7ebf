// Attention of one decode step: each sequence attends to its keys and values in place in the KV cache.
#ifndef PRECAST_DECODE_ATTENTION_H
#define PRECAST_DECODE_ATTENTION_H

#include <numeric>

#include "threads.h"
#include "vector.h"

namespace precast {

// The keys and values of one layer, each [slots][heads][head_dim].
template <class Number>
struct KVCache {
  const Number* keys;
  const Number* values;
};

struct DecodeSizes {
  int64_t sequences, heads, head_dim;
  // Numbers from one sequence of the query to the next.
  int64_t stride;
  // Columns of the table of slots; keys that a sequence sees in addition to `counts`.
  int64_t longest, more;
  // The bias is [heads][2 * max_distance + 1], by the distance from the position `counts` to the key.
  int64_t max_distance;
  float scale;
};

// Reduces each of 16 registers to its sum: lane i of the result is the sum of `rows[i]`.
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

// Numbers in one register of the product's factors.
template <class Number>
constexpr int64_t FACTORS = 64 / sizeof(Number);

// Scores of up to 16 keys, not yet scaled.
template <class Number>
inline __m512 score_keys(const Number* query, const Number* keys, int64_t slot_size, const int32_t* slots,
                         int64_t count, int64_t size) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int key = 0; key < 16; ++key) {
    sums[key] = _mm512_setzero_ps();
    if (key >= count) continue;
    const Number* at = keys + slots[key] * slot_size;
    for (int64_t part = 0; part < size; part += FACTORS<Number>)
      sums[key] = add_product(sums[key], query + part, at + part, size - part);
  }
  return sums_of(sums);
}

// Softmax in place; `scores` is padded to whole registers.
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

// Adds the weighted values of `count` keys to up to 64 numbers of `sums`.
template <class Number, int WIDE>
inline void add_values(const Number* values, int64_t slot_size, const int32_t* slots, const float* weights,
                       int64_t count, int64_t size, float* sums) {
  __m512 held[WIDE];
#pragma GCC unroll 4
  for (int part = 0; part < WIDE; ++part) held[part] = load(sums + part * LANES);
  for (int64_t key = 0; key < count; ++key) {
    const Number* value = values + slots[key] * slot_size;
    const __m512 weight = _mm512_set1_ps(weights[key]);
#pragma GCC unroll 4
    for (int part = 0; part < WIDE; ++part)
      held[part] = _mm512_fmadd_ps(weight, load(value + part * LANES, first_lanes(size - part * LANES)), held[part]);
  }
#pragma GCC unroll 4
  for (int part = 0; part < WIDE; ++part) store(sums + part * LANES, held[part]);
}

// Reads `size` numbers at each of up to 16 slots to bring them into the L1 cache.
// Contiguous ranges that are read from end to end arrive at full memory bandwidth. If each head reads its own piece
// of 16 ranges, it waits for every piece, even with prefetching.
template <class Number>
inline void fetch(const Number* cache, int64_t slot_size, const int32_t* slots, int64_t count, int64_t size) {
  __m512i all = _mm512_setzero_si512();
  for (int64_t key = 0; key < count; ++key) {
    const Number* at = cache + slots[key] * slot_size;
    for (int64_t part = 0; part + FACTORS<Number> <= size; part += FACTORS<Number>)
      all = _mm512_or_si512(all, _mm512_loadu_si512(at + part));
  }
  asm volatile("" ::"v"(all));  // keeps the loads from being optimized away
}

// Some heads of one sequence. Keys are processed 16 at a time, all heads of each: a slot is contiguous in memory.
template <class Number>
struct DecodeSequence {
  const Number* query;
  KVCache<Number> kv_cache;
  const int32_t* slots;
  const float* bias;
  // The output of the first of `copies` identical sequences.
  Number* output;
  int64_t copies;
  const DecodeSizes& sizes;
  int64_t position, count, first_head, last_head;
  // [heads][width] and [heads][padded head_dim].
  float* scores;
  float* sums;
  int64_t width, padded;

  int64_t slot_size() const { return sizes.heads * sizes.head_dim; }

  // Fetches these heads' part of `some` slots.
  void fetch_heads(const Number* cache, int64_t key, int64_t some) const {
    fetch(cache + first_head * sizes.head_dim, slot_size(), slots + key, some,
          (last_head - first_head) * sizes.head_dim);
  }

  void score() const {
    for (int64_t key = 0; key < count; key += LANES) {
      const int64_t some = std::min<int64_t>(LANES, count - key);
      fetch_heads(kv_cache.keys, key, some);
      for (int64_t head = first_head; head < last_head; ++head) {
        const int64_t at = head * sizes.head_dim;
        __m512 found = score_keys(query + at, kv_cache.keys + at, slot_size(), slots + key, some, sizes.head_dim);
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
    const __m512i at = _mm512_min_epi32(_mm512_max_epi32(distance, all(-sizes.max_distance)), all(sizes.max_distance));
    return _mm512_i32gather_ps(at, bias + head * (2 * sizes.max_distance + 1) + sizes.max_distance, sizeof(float));
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
          add_values<Number, 4>(values + part, slot_size(), slots + key, weights, some, sizes.head_dim - part,
                                into + part);
        for (; part < padded; part += LANES)
          add_values<Number, 1>(values + part, slot_size(), slots + key, weights, some, sizes.head_dim - part,
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
      Number* to = output + copy * slot_size() + head * sizes.head_dim;
      for (int64_t at = 0; at < sizes.head_dim; at += LANES)
        store(to + at, load(sums + head * padded + at), first_lanes(sizes.head_dim - at));
    }
  }
};

// The number of sequences, where repetitions of the last one count once.
inline int64_t distinct(const int32_t* seq_ids, int64_t count) {
  while (count > 1 && seq_ids[count - 1] == seq_ids[count - 2]) --count;
  return count;
}

// The number of parts that the heads of a sequence are split into, to balance the threads. With many sequences
// balance does not matter, and a slot is read as a whole.
inline int64_t parts_of(int64_t heads, int64_t sequences, int64_t threads) {
  return sequences < 4 * threads ? std::min(heads, threads / std::gcd(sequences, threads)) : 1;
}

// Args: `query` [sequences][heads][head_dim] with contiguous heads; `slots` [N][longest]; `seq_ids` [sequences],
// indices below N, where padding repeats the last one with its query; `counts` [N]; `bias` fp32 or null; `output`
// [sequences][heads * head_dim], zeros if no key is visible.
template <class Number>
inline void decode_attention(const Number* query, KVCache<Number> kv_cache, const int32_t* slots,
                             const int32_t* seq_ids, const int32_t* counts, const float* bias, Number* output,
                             DecodeSizes sizes) {
  const int64_t slot_size = sizes.heads * sizes.head_dim, different = distinct(seq_ids, sizes.sequences);
  const auto keys_of = [&](int64_t seq) { return std::min<int64_t>(counts[seq] + sizes.more, sizes.longest); };
  int64_t most = 0;
  for (int64_t at = 0; at < different; ++at) most = std::max(most, keys_of(seq_ids[at]));
  const int64_t width = up_to(most, LANES), padded = up_to(sizes.head_dim, LANES);
#pragma omp parallel
  {
    const int64_t threads = omp_get_num_threads(), parts = parts_of(sizes.heads, different, threads);
    Scratch<float> scores(sizes.heads * width), sums(sizes.heads * padded);
    const Share share = share_of(different * parts, omp_get_thread_num(), threads);
    for (int64_t piece = share.begin; piece < share.end; ++piece) {
      const int64_t at = piece / parts, seq = seq_ids[at];
      const Share heads = share_of(sizes.heads, piece % parts, parts);
      const int64_t copies = at == different - 1 ? sizes.sequences - at : 1;
      DecodeSequence<Number>{
          query + at * sizes.stride, kv_cache, slots + seq * sizes.longest, bias, output + at * slot_size,
          copies, sizes, counts[seq], keys_of(seq), heads.begin, heads.end, scores.get(), sums.get(),
          width, padded}
          .run();
    }
  }
}

}  // namespace precast

#endif
