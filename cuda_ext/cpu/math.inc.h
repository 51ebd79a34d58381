// Exponentials, and how values of either type come in and go out. Included after one of the vector headers, whose words it is written in.
#pragma once

namespace {

constexpr int64_t BLOCK = 2 * WIDTH;  // what is done at a time

inline void load_pair(const float* from, Floats& a, Floats& b) {
  a = load(from);
  b = load(from + WIDTH);
}
inline void store_pair(float* to, Floats a, Floats b) {
  store(to, a);
  store(to + WIDTH, b);
}
inline void store_pair_past_caches(float* to, Floats a, Floats b) {
  store_past_caches(to, a);
  store_past_caches(to + WIDTH, b);
}

template <bool IS_STREAM, class T>
inline void put_pair(T* to, Floats a, Floats b) {
  if constexpr (IS_STREAM) {
    store_pair_past_caches(to, a, b);
  } else {
    store_pair(to, a, b);
  }
}

inline bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 64 == 0; }

// e^x to 1e-7. Argument in two parts of ln 2 (Cody and Waite), polynomial of Cephes' expf (Moshier). NaN stays, and what leaves float's
// range becomes infinity or zero.
inline Floats exponential(Floats x) {
  x = clamp(x, -104.0f, 104.0f);
  const Floats n = round(x * 1.44269504088896341f);
  Floats r = multiply_add(n, -0.693359375f, x);
  r = multiply_add(n, 2.12194440e-4f, r);
  Floats p = multiply_add(1.9875691500e-4f, r, 1.3981999507e-3f);
  p = multiply_add(p, r, 8.3334519073e-3f);
  p = multiply_add(p, r, 4.1665795894e-2f);
  p = multiply_add(p, r, 1.6666665459e-1f);
  p = multiply_add(p, r, 5.0000001201e-1f);
  return scale(multiply_add(p * r, r, r + 1.0f), n);
}

// 2^x to 1e-5, a thousandth of a bfloat16's last place: the polynomial is the best of degree 4 on [-1/2, 1/2].
inline Floats power_of_two_coarse(Floats x) {
  Floats n, f;
  split(x, n, f);
  Floats p = multiply_add(9.570102207362652e-3f, f, 5.591786280274391e-2f);
  p = multiply_add(p, f, 2.40247443318367e-1f);
  p = multiply_add(p, f, 6.931217908859253e-1f);
  return scale(multiply_add(p, f, 9.999992847442627e-1f), n);
}

// 1 / (1 + e^-x), as exactly as T needs it.
template <class T>
inline Floats sigmoid(Floats x);
template <>
inline Floats sigmoid<float>(Floats x) {
  return Floats(1.0f) / (exponential(Floats(0.0f) - x) + 1.0f);
}
template <>
inline Floats sigmoid<uint16_t>(Floats x) {
  return reciprocal(power_of_two_coarse(x * -1.44269504088896341f) + 1.0f);
}

// --- rows of any length ------------------------------------------------------------------------------------------------------------

// Up to whole vectors.
inline int64_t span(int64_t count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }

template <class T>
void copy_values(T* to, const T* from, int64_t count) {
  memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
}

// `count` values as floats, and `fill` behind them.
template <class T>
inline void read_row(const T* from, float* to, int64_t count, float fill) {
  for (int64_t i = 0; i < count; i += WIDTH) store(to + i, load_some(from + i, count - i, fill));
}

template <class T>
inline void write_row(const float* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; i += WIDTH) store_some(to + i, load(from + i), count - i);
}

}  // namespace
