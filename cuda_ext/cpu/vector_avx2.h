// Eight values at a time: AVX2 with FMA. The same words as vector_scalar.h, which says what they mean.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

namespace {

constexpr int WIDTH = 8;

struct Floats {
  __m256 v;
  Floats() = default;
  Floats(__m256 x) : v(x) {}
  Floats(float x) : v(_mm256_set1_ps(x)) {}
};

inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Floats x) { _mm256_storeu_ps(to, x.v); }
inline void store_past_caches(float* to, Floats x) { _mm256_stream_ps(to, x.v); }
inline Floats operator+(Floats a, Floats b) { return _mm256_add_ps(a.v, b.v); }
inline Floats operator-(Floats a, Floats b) { return _mm256_sub_ps(a.v, b.v); }
inline Floats operator*(Floats a, Floats b) { return _mm256_mul_ps(a.v, b.v); }
inline Floats operator/(Floats a, Floats b) { return _mm256_div_ps(a.v, b.v); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
inline Floats clamp(Floats x, float low, float high) {
  // Both instructions return the second of their arguments if one is NaN.
  return _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), x.v));
}
inline Floats round(Floats x) { return _mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline void split(Floats x, Floats& whole, Floats& rest) {
  const Floats near = clamp(x, -160.0f, 160.0f);
  whole = round(near);
  rest = near - whole;
}
inline float sum(Floats x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// To 2^-14 at least.
inline Floats reciprocal(Floats x) { return Floats(1.0f) / x; }

inline Floats scale(Floats x, Floats n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(x.v, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

// --- bfloat16 ------------------------------------------------------------------------------------------------------------------------

inline void load_pair(const uint16_t* from, Floats& a, Floats& b) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  a = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  b = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

// The upper halves of the words hold what is meant.
inline __m256i rounded(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(quiet), is_nan));
}

inline Floats widened(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
inline __m128i narrowed(Floats x) {
  const __m256i halves = _mm256_srli_epi32(rounded(x.v), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

inline Floats load_some(const float* from, int64_t count, float fill) {
  if (count >= WIDTH) return load(from);
  float lanes[WIDTH] = {fill, fill, fill, fill, fill, fill, fill, fill};
  for (int64_t i = 0; i < count; i++) lanes[i] = from[i];
  return load(lanes);
}
inline Floats load_some(const uint16_t* from, int64_t count, float fill) {
  if (count >= WIDTH) return widened(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  float lanes[WIDTH] = {fill, fill, fill, fill, fill, fill, fill, fill};
  for (int64_t i = 0; i < count; i++) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    memcpy(lanes + i, &bits, sizeof(bits));
  }
  return load(lanes);
}
inline void store_some(float* to, Floats x, int64_t count) {
  if (count >= WIDTH) return store(to, x);
  float lanes[WIDTH];
  store(lanes, x);
  for (int64_t i = 0; i < count; i++) to[i] = lanes[i];
}
inline void store_some(uint16_t* to, Floats x, int64_t count) {
  const __m128i all = narrowed(x);
  if (count >= WIDTH) return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), all);
  uint16_t lanes[WIDTH];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), all);
  for (int64_t i = 0; i < count; i++) to[i] = lanes[i];
}

inline __m256i joined(Floats a, Floats b) {
  return _mm256_blend_epi16(_mm256_srli_epi32(rounded(a.v), 16), rounded(b.v), 0xaa);
}
inline void store_pair(uint16_t* to, Floats a, Floats b) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), joined(a, b));
}
inline void store_pair_past_caches(uint16_t* to, Floats a, Floats b) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), joined(a, b));
}
inline void fence() { _mm_sfence(); }

inline void copy_line_past_caches(void* to, const void* from) {
  const __m256i* lines = static_cast<const __m256i*>(from);
  const __m256i a = _mm256_loadu_si256(lines), b = _mm256_loadu_si256(lines + 1);
  _mm256_stream_si256(static_cast<__m256i*>(to), a);
  _mm256_stream_si256(static_cast<__m256i*>(to) + 1, b);
}

// --- integers that order as the floats do --------------------------------------------------------------------------------------------

struct Keys {
  __m256i v;
};

inline Keys load_keys(const int32_t* from) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))}; }
inline void store_keys(int32_t* to, Keys x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x.v); }
inline Keys highest(Keys a, Keys b) { return {_mm256_max_epi32(a.v, b.v)}; }
inline int32_t highest(Keys a) {
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline uint64_t equal(Keys a, int32_t x) {
  const __m256i same = _mm256_cmpeq_epi32(a.v, _mm256_set1_epi32(x));
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(same)));
}
inline Keys lowered(Keys a, uint64_t lanes) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i is_meant = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(lanes)), bit), bit);
  return {_mm256_blendv_epi8(a.v, _mm256_set1_epi32(INT32_MIN), is_meant)};
}
inline Keys keys_of(Floats x) {
  const __m256i bits = _mm256_castps_si256(_mm256_add_ps(x.v, _mm256_setzero_ps()));
  const __m256i key = _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  return {_mm256_blendv_epi8(key, _mm256_set1_epi32(INT32_MAX), is_nan)};
}

}  // namespace
