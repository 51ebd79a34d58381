// The integer arithmetic of the codec and of the aggregate, exact to the bit on every machine: plain loops that a compiler makes vectors of,
// one copy for each width of them, picked by the dynamic linker. No torch, no libraries.
//
// integers.py says what the functions do, checks what they are given, and does the same in numpy. A chunk is CHUNK values.
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#define FOR_EACH_WIDTH __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), visibility("default")))
#else
#define FOR_EACH_WIDTH __attribute__((visibility("default")))
#endif

namespace {

constexpr int64_t CHUNK = 4096;
constexpr int64_t BLOCK = 512;  // sums of so many values stay in the first cache while all contributions are added

}  // namespace

extern "C" {

// total[i] = (half + sum over n of (quanta[n][i] * factors[n] << shifts[n][chunk of i])) >> down, for `chunks` chunks from `first` on.
// |quanta * factors| < 2^31, and no partial sum leaves an int64.
FOR_EACH_WIDTH void p2pnode_accumulate(
    int64_t contributions, const int8_t* const* quanta, const uint8_t* const* shifts, const int32_t* factors, int64_t first,
    int64_t chunks, int64_t half, int32_t down, int64_t* total) {
  for (int64_t begin = 0; begin < chunks * CHUNK; begin += BLOCK) {
    int64_t sums[BLOCK];
    for (int64_t i = 0; i < BLOCK; i++) sums[i] = half;
    const int64_t from = first * CHUNK + begin;
    for (int64_t n = 0; n < contributions; n++) {
      const int8_t* const values = quanta[n] + from;
      const int32_t factor = factors[n];
      const int32_t shift = shifts[n][from / CHUNK];
      int32_t products[BLOCK];
      for (int64_t i = 0; i < BLOCK; i++) products[i] = values[i] * factor;
      for (int64_t i = 0; i < BLOCK; i++) sums[i] += static_cast<int64_t>(static_cast<uint64_t>(int64_t{products[i]}) << shift);
    }
    for (int64_t i = 0; i < BLOCK; i++) total[begin + i] = sums[i] >> down;
  }
}

// The sum of squares of each chunk, below 2^26.
FOR_EACH_WIDTH void p2pnode_squares(const int8_t* quanta, int64_t chunks, int64_t* sums) {
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    const int8_t* const values = quanta + chunk * CHUNK;
    int32_t sum = 0;
    for (int64_t i = 0; i < CHUNK; i++) sum += values[i] * values[i];
    sums[chunk] = sum;
  }
}

// Each chunk's exponent, and its values in units of 2^exponent, rounded to even, within +-limit. 0 if a value is NaN or infinite.
FOR_EACH_WIDTH int p2pnode_quantize(
    const float* values, int64_t chunks, int32_t lowest, int32_t highest, int8_t* exponents, int8_t* quanta) {
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    const float* const from = values + chunk * CHUNK;
    int8_t* const to = quanta + chunk * CHUNK;
    int32_t largest = 0;  // positive floats are ordered as their bits are
    for (int64_t i = 0; i < CHUNK; i++) {
      int32_t bits;
      memcpy(&bits, from + i, sizeof(bits));
      bits &= INT32_MAX;
      largest = bits > largest ? bits : largest;
    }
    if (largest >= 0x7f800000) return 0;
    // What brings the largest into [64, 127] after rounding: 127.5 would become 128.
    int32_t exponent = (largest >> 23) - 126 - 7 + ((largest & 0x7fffff) >= 0x7f0000);
    exponent = exponent < lowest ? lowest : exponent > highest ? highest : exponent;
    exponents[chunk] = static_cast<int8_t>(exponent);
    const int32_t scale_bits = (127 - exponent) << 23;
    float scale;
    memcpy(&scale, &scale_bits, sizeof(scale));
    const float shift = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer
    for (int64_t i = 0; i < CHUNK; i++) {
      float scaled = from[i] * scale;
      scaled = scaled > 127.0f ? 127.0f : scaled;
      scaled = scaled < -127.0f ? -127.0f : scaled;
      to[i] = static_cast<int8_t>(static_cast<int32_t>((scaled + shift) - shift));
    }
  }
  return 1;
}

}  // extern "C"
