// The pairs of token and expert in the order of their experts: a stable counting sort, in one or two launches.
//
// The pairs are cut into blocks of the grid, these into a stretch for each warp. `count_kernel` counts the experts of each block into a table
// (blocks x E). In `place_kernel` each block adds up the table for itself (from the second cache; the table is small), so that it knows where
// each expert begins, and where in it its own pairs do; then each warp walks through its stretch, 32 pairs at a time, in order. Nothing
// depends on which block or warp comes first. A plan of at most PAIRS_A_BLOCK pairs is one block, which needs no table.
//
// Roofline: 65,536 pairs are 0.8 MB: bound by two launches and by a warp's eight steps. A sort by radix is 4 to 8 launches.
#include "common.cuh"

namespace p2pnode {
namespace {

constexpr int PAIRS_A_BLOCK = 2048;
constexpr int BLOCKS_MAX = 128;  // every block reads a table of this many rows
constexpr int SHARED_EXPERTS = 1024;  // more have their counters in global memory, and one warp a block

struct Cut {
  int64_t pairs;
  int experts, align, blocks;
  int64_t stretch;  // pairs a warp
};

Cut cut_of(int64_t pairs, int experts, int align, int warps) {
  const int64_t blocks = std::clamp<int64_t>(ceil_div(pairs, PAIRS_A_BLOCK), 1, BLOCKS_MAX);
  const int64_t stretch = ceil_div(ceil_div(pairs, blocks * warps), WARP) * WARP;
  return {pairs, experts, align, static_cast<int>(blocks), stretch};
}

// The expert of a pair. One that is none would write beyond the plan; torch's own kernels stop at a wrong index, too.
__device__ __forceinline__ int expert_of(const int* indices, int64_t pair, int experts) {
  const int expert = load<int, 1>(indices + pair);
  if (static_cast<unsigned>(expert) >= static_cast<unsigned>(experts)) __trap();
  return expert;
}

// Counts the pairs of each warp's stretch, or of the whole block's, into `counters`: (warps or 1, E).
template <int WARPS_A_BLOCK, bool BY_WARP>
__device__ __forceinline__ void count_block(const int* indices, const Cut& cut, int* counters) {
  constexpr int STEP = WARPS_A_BLOCK * WARP;
  for (int i = threadIdx.x; i < (BY_WARP ? WARPS_A_BLOCK : 1) * cut.experts; i += STEP) counters[i] = 0;
  __syncthreads();
  const int warp = threadIdx.x / WARP;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * WARPS_A_BLOCK + warp) * cut.stretch;
  const int64_t last = min(first + cut.stretch, cut.pairs);
  if (BY_WARP) counters += warp * cut.experts;
  for (int64_t pair = first + lane(); pair < last; pair += WARP) atomicAdd(counters + expert_of(indices, pair, cut.experts), 1);
  __syncthreads();
}

template <int WARPS_A_BLOCK, bool SHARED>
__global__ void __launch_bounds__(WARPS_A_BLOCK* WARP) count_kernel(const int* __restrict__ indices, Cut cut, int* table) {
  __shared__ int shared[SHARED ? SHARED_EXPERTS : 1];
  int* row = table + static_cast<int64_t>(blockIdx.x) * cut.experts;
  count_block<WARPS_A_BLOCK, false>(indices, cut, SHARED ? shared : row);
  if constexpr (SHARED)
    for (int expert = threadIdx.x; expert < cut.experts; expert += WARPS_A_BLOCK * WARP) row[expert] = shared[expert];
}

// The sum of `x` over the threads up to this one; `total` is that over all.
template <int WARPS_A_BLOCK>
__device__ __forceinline__ int block_scan(int x, int& total) {
  __shared__ int warp_sums[WARPS_A_BLOCK];
#pragma unroll
  for (int distance = 1; distance < WARP; distance *= 2) {
    const int below = __shfl_up_sync(ALL_LANES, x, distance);
    if (lane() >= distance) x += below;
  }
  if (lane() == WARP - 1) warp_sums[threadIdx.x / WARP] = x;
  __syncthreads();
  total = 0;
#pragma unroll
  for (int warp = 0; warp < WARPS_A_BLOCK; ++warp) {
    if (warp < static_cast<int>(threadIdx.x) / WARP) x += warp_sums[warp];
    total += warp_sums[warp];
  }
  __syncthreads();  // before the next call writes
  return x;
}

// From the counts of each warp, (warps, E), to the row of each warp's first pair of each expert. `ends` is null but in one block.
template <int WARPS_A_BLOCK>
__device__ __forceinline__ void starts_from_counts(const Cut& cut, const int* __restrict__ table, int* counters, int* ends) {
  int before_group = 0;
  for (int group = 0; group < cut.experts; group += WARPS_A_BLOCK * WARP) {
    const int expert = group + threadIdx.x;
    const bool exists = expert < cut.experts;
    int count = 0, before = 0;
    if (exists && cut.blocks == 1) {
      for (int warp = 0; warp < WARPS_A_BLOCK; ++warp) count += counters[warp * cut.experts + expert];
    } else if (exists) {
#pragma unroll 8
      for (int block = 0; block < cut.blocks; ++block) {
        const int x = table[static_cast<int64_t>(block) * cut.experts + expert];
        count += x;
        if (block < static_cast<int>(blockIdx.x)) before += x;
      }
    }
    const int rounded = (count + cut.align - 1) / cut.align * cut.align;
    int total;
    const int end = before_group + block_scan<WARPS_A_BLOCK>(rounded, total);
    before_group += total;
    if (!exists) continue;
    if (ends) ends[expert] = end;
    int start = end - rounded + before;
    for (int warp = 0; warp < WARPS_A_BLOCK; ++warp) {
      int& counter = counters[warp * cut.experts + expert];
      const int own = counter;
      counter = start;
      start += own;
    }
  }
  __syncthreads();
}

template <int WARPS_A_BLOCK, bool SHARED>
__global__ void __launch_bounds__(WARPS_A_BLOCK* WARP) place_kernel(
    const int* __restrict__ indices, Cut cut, const int* __restrict__ table, int* global_counters, int* __restrict__ perm,
    int* __restrict__ inverse, int* __restrict__ ends) {
  __shared__ int shared[SHARED ? WARPS_A_BLOCK * SHARED_EXPERTS : 1];
  int* counters = SHARED ? shared : global_counters + static_cast<int64_t>(blockIdx.x) * WARPS_A_BLOCK * cut.experts;
  count_block<WARPS_A_BLOCK, true>(indices, cut, counters);
  starts_from_counts<WARPS_A_BLOCK>(cut, table, counters, blockIdx.x == 0 ? ends : nullptr);

  const int warp = threadIdx.x / WARP;
  counters += warp * cut.experts;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * WARPS_A_BLOCK + warp) * cut.stretch;
  const int64_t last = min(first + cut.stretch, cut.pairs);
  const unsigned lanes_below = (1u << lane()) - 1;
  for (int64_t step = first; step < last; step += WARP) {
    const int64_t pair = step + lane();
    const int expert = pair < last ? expert_of(indices, pair, cut.experts) : -1;
    const unsigned same = __match_any_sync(ALL_LANES, expert);
    const int rank = __popc(same & lanes_below);
    const int row = expert < 0 ? 0 : counters[expert] + rank;
    __syncwarp();
    if (expert >= 0 && rank == 0) counters[expert] = row + __popc(same);
    __syncwarp();
    if (expert < 0) continue;
    perm[row] = static_cast<int>(pair);
    inverse[pair] = row;
  }
}

__global__ void __launch_bounds__(THREADS) invert_kernel(const int* __restrict__ perm, int64_t rows, int64_t pairs, int* inverse) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (row >= rows) return;
  const int pair = load<int, 1>(perm + row);
  if (pair >= pairs) __trap();
  if (pair >= 0) inverse[pair] = static_cast<int>(row);
}

template <int WARPS_A_BLOCK, bool SHARED>
void plan_in(
    const int* indices, int64_t pairs, int experts, int align, int* scratch, int* perm, int* inverse, int* ends, cudaStream_t stream) {
  const Cut cut = cut_of(pairs, experts, align, WARPS_A_BLOCK);
  int* const table = scratch;
  int* const counters = scratch + static_cast<int64_t>(cut.blocks) * experts;
  constexpr int BLOCK = WARPS_A_BLOCK * WARP;
  if (cut.blocks > 1) launch(count_kernel<WARPS_A_BLOCK, SHARED>, cut.blocks, BLOCK, stream, indices, cut, table);
  launch(place_kernel<WARPS_A_BLOCK, SHARED>, cut.blocks, BLOCK, stream, indices, cut, table, counters, perm, inverse, ends);
}

}  // namespace

int64_t plan_scratch(int64_t pairs, int experts) {
  return static_cast<int64_t>(cut_of(pairs, experts, 1, 1).blocks) * experts * (experts > SHARED_EXPERTS ? 2 : 1);
}

void plan(
    const int* indices, int64_t pairs, int experts, int align, int* scratch, int* perm, int* inverse, int* ends, cudaStream_t stream) {
  const int64_t padding = static_cast<int64_t>(experts) * (align - 1);
  if (padding) check(cudaMemsetAsync(perm, 0xff, (pairs + padding) * sizeof(int), stream));  // -1 where no pair will stand
  if (experts <= SHARED_EXPERTS) return plan_in<WARPS, true>(indices, pairs, experts, align, scratch, perm, inverse, ends, stream);
  plan_in<1, false>(indices, pairs, experts, align, scratch, perm, inverse, ends, stream);
}

void invert(const int* perm, int64_t rows, int64_t pairs, int* inverse, cudaStream_t stream) {
  launch(invert_kernel, ceil_div(rows, THREADS), THREADS, stream, perm, rows, pairs, inverse);
}

}  // namespace p2pnode
