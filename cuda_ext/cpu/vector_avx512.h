// Sixteen values at a time: AVX-512 F, BW, DQ and VL, and BF16's conversion where the source is compiled for it. The same words as
// vector_scalar.h, which says what they mean.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

namespace {

constexpr int WIDTH = 16;

struct Floats {
  __m512 v;
  Floats() = default;
  Floats(__m512 x) : v(x) {}
  Floats(float x) : v(_mm512_set1_ps(x)) {}
};

inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x.v); }
inline void store_past_caches(float* to, Floats x) { _mm512_stream_ps(to, x.v); }
inline Floats operator+(Floats a, Floats b) { return _mm512_add_ps(a.v, b.v); }
inline Floats operator-(Floats a, Floats b) { return _mm512_sub_ps(a.v, b.v); }
inline Floats operator*(Floats a, Floats b) { return _mm512_mul_ps(a.v, b.v); }
inline Floats operator/(Floats a, Floats b) { return _mm512_div_ps(a.v, b.v); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
inline Floats clamp(Floats x, float low, float high) {
  // Both instructions return the second of their arguments if one is NaN.
  return _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), x.v));
}
inline Floats round(Floats x) { return _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline void split(Floats x, Floats& whole, Floats& rest) {
  rest = _mm512_reduce_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // zero of infinity
  whole = x - rest;
}
inline float sum(Floats x) { return _mm512_reduce_add_ps(x.v); }
inline Floats reciprocal(Floats x) { return _mm512_rcp14_ps(x.v); }
inline Floats scale(Floats x, Floats n) { return _mm512_scalef_ps(x.v, n.v); }

// Sixteen rows become sixteen columns: by single values, by pairs of them, and twice by quarters of a vector.
inline void transpose(Floats* rows) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; j++) {
      const __m512d low = _mm512_castps_pd(a[i + j]), high = _mm512_castps_pd(a[i + j + 2]);
      b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  for (int i = 0; i < 4; i++) {
    a[i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88);
    a[4 + i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xdd);
    a[8 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88);
    a[12 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    rows[i] = _mm512_shuffle_f32x4(a[i], a[8 + i], 0x88);
    rows[4 + i] = _mm512_shuffle_f32x4(a[4 + i], a[12 + i], 0x88);
    rows[8 + i] = _mm512_shuffle_f32x4(a[i], a[8 + i], 0xdd);
    rows[12 + i] = _mm512_shuffle_f32x4(a[4 + i], a[12 + i], 0xdd);
  }
}

// --- bfloat16 ------------------------------------------------------------------------------------------------------------------------

#if defined(__AVX512BF16__)
inline __m256i narrowed(Floats x) {
  const __m256bh half = _mm512_cvtneps_pbh(x.v);
  __m256i bits;
  memcpy(&bits, &half, sizeof(bits));
  return bits;
}
// Words of a and of b in turns.
inline __m512i joined(Floats a, Floats b) {
  const __m512bh both = _mm512_cvtne2ps_pbh(b.v, a.v);
  __m512i bits;
  memcpy(&bits, &both, sizeof(bits));
  alignas(64) static constexpr uint16_t TURNS[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(TURNS), bits);
}
#else
// The upper halves of the words hold what is meant.
inline __m512i rounded(Floats x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(up, is_nan, bits, _mm512_set1_epi32(0x400000));
}
inline __m256i narrowed(Floats x) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(x), 16)); }
inline __m512i joined(Floats a, Floats b) {
  return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(rounded(a), 16), rounded(b));
}
#endif

inline Floats widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline __mmask16 first_lanes(int64_t count) { return count >= WIDTH ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

inline Floats load_some(const float* from, int64_t count, float fill) {
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(count), from);
}
inline Floats load_some(const uint16_t* from, int64_t count, float fill) {
  const __mmask16 lanes = first_lanes(count);
  return _mm512_mask_mov_ps(_mm512_set1_ps(fill), lanes, widened(_mm256_maskz_loadu_epi16(lanes, from)).v);
}
inline void store_some(float* to, Floats x, int64_t count) { _mm512_mask_storeu_ps(to, first_lanes(count), x.v); }
inline void store_some(uint16_t* to, Floats x, int64_t count) { _mm256_mask_storeu_epi16(to, first_lanes(count), narrowed(x)); }

inline void load_pair(const uint16_t* from, Floats& a, Floats& b) {
  const __m512i both = _mm512_loadu_si512(from);
  a = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  b = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline void store_pair(uint16_t* to, Floats a, Floats b) { _mm512_storeu_si512(to, joined(a, b)); }
inline void store_pair_past_caches(uint16_t* to, Floats a, Floats b) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), joined(a, b));
}
inline void fence() { _mm_sfence(); }

inline void copy_line_past_caches(void* to, const void* from) {
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
}

// --- integers that order as the floats do --------------------------------------------------------------------------------------------

struct Keys {
  __m512i v;
};

inline Keys load_keys(const int32_t* from) { return {_mm512_loadu_si512(from)}; }
inline void store_keys(int32_t* to, Keys x) { _mm512_storeu_si512(to, x.v); }
inline Keys highest(Keys a, Keys b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline int32_t highest(Keys a) { return _mm512_reduce_max_epi32(a.v); }
inline uint64_t equal(Keys a, int32_t x) { return _mm512_cmpeq_epi32_mask(a.v, _mm512_set1_epi32(x)); }
inline Keys lowered(Keys a, uint64_t lanes) {
  return {_mm512_mask_mov_epi32(a.v, static_cast<__mmask16>(lanes), _mm512_set1_epi32(INT32_MIN))};
}
inline Keys keys_of(Floats x) {
  const __m512i bits = _mm512_castps_si512(_mm512_add_ps(x.v, _mm512_setzero_ps()));
  const __m512i key = _mm512_xor_si512(bits, _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return {_mm512_mask_mov_epi32(key, is_nan, _mm512_set1_epi32(INT32_MAX))};
}

}  // namespace
