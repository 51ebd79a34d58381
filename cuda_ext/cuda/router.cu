// Which k of E experts each token goes to, with what weights, and the gradient of these. A warp has a token.
//
// Roofline: 8192 tokens of 128 experts in bf16 with k = 8 move 2.6 MB, which is under a microsecond on an H200: bound by the launch and by
// the length of one token's chain of instructions (k rounds of about 25, and 30 for the sum). Up to 512 experts a token's logits stay in
// registers and each round is two warp-wide reductions of integers; beyond that they are read again each round, from the first cache.
// torch's chain softmax, topk, gather, sum, divide, bincount is 6 to 8 launches.
#include "common.cuh"

namespace p2pnode {
namespace {

constexpr int RESIDENT_EXPERTS = 512;
constexpr int BLOCKS_A_PROCESSOR = 4;  // few enough that their sums into `counts` are no crowd

// Logits as unsigned numbers in the order in which they are chosen: NaN of either sign above infinity, both zeros the same. None is 0.
__device__ __forceinline__ unsigned rank_of(float logit) {
  const unsigned word = bits<unsigned>(logit + 0.0f);
  if (logit != logit) return 0xffffffffu;
  return word & 0x80000000u ? ~word : word | 0x80000000u;
}

__device__ __forceinline__ float logit_of(unsigned rank) { return bits<float>(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank); }

// One token's row. The expert of a lane's j-th logit is j * WARP + lane; past the last expert stands 0, which nothing chooses.
template <class T, int EACH>
struct Row {
  unsigned ranks[EACH];

  __device__ __forceinline__ Row(const T* logits, int experts) {
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
      const int expert = j * WARP + lane();
      ranks[j] = expert < experts ? rank_of(to_float(load<T, 1>(logits + expert))) : 0;
    }
  }
  template <class Function>
  __device__ __forceinline__ void for_each(Function function) const {
#pragma unroll
    for (int j = 0; j < EACH; ++j) function(ranks[j], j * WARP + lane());
  }
};

template <class T>
struct Row<T, 0> {
  const T* logits;
  int experts;

  __device__ __forceinline__ Row(const T* logits, int experts) : logits(logits), experts(experts) {}
  template <class Function>
  __device__ __forceinline__ void for_each(Function function) const {
    for (int expert = lane(); expert < experts; expert += WARP) function(rank_of(to_float(load<T, 1>(logits + expert))), expert);
  }
};

struct Choice {
  unsigned rank;
  int expert;
};

// The best that comes after `last`: of a lower rank, or of the same and a higher number.
template <class Row>
__device__ __forceinline__ Choice next_choice(const Row& row, Choice last) {
  Choice best{0, INT32_MAX};
  row.for_each([&](unsigned rank, int expert) {
    const bool left = rank < last.rank || (rank == last.rank && expert > last.expert);
    if (left && rank > best.rank) best = {rank, expert};
  });
  const unsigned rank = __reduce_max_sync(ALL_LANES, best.rank);
  const int expert = __reduce_min_sync(ALL_LANES, best.rank == rank ? best.expert : INT32_MAX);
  return {rank, expert};
}

template <class T, int EACH>
__device__ __forceinline__ void route_token(
    const T* logits, const Routing& routing, float* __restrict__ weights, int* __restrict__ indices, int* counts, float* lse) {
  const Row<T, EACH> row(logits, routing.experts);
  unsigned top = 0;
  row.for_each([&](unsigned rank, int) { top = max(top, rank); });
  const float highest = logit_of(__reduce_max_sync(ALL_LANES, top));
  float sum = 0.0f;
  row.for_each([&](unsigned rank, int) { sum += rank ? expf(logit_of(rank) - highest) : 0.0f; });
  sum = warp_sum(sum);
  if (lane() == 0) *lse = isinf(highest) ? highest : highest + logf(sum);

  // Lane i has the i-th choice of each 32; scores become weights when their sum is known.
  float mine = 0.0f, chosen_sum = 0.0f;
  Choice choice{0xffffffffu, -1};
  for (int i = 0; i < routing.k; ++i) {
    choice = next_choice(row, choice);
    const float logit = logit_of(choice.rank), score = routing.score == Score::softmax ? expf(logit - highest) : sigmoid(logit);
    chosen_sum += score;
    if (lane() != i % WARP) continue;
    indices[i] = choice.expert;
    atomicAdd(counts + choice.expert, 1);
    if (i / WARP < (routing.k - 1) / WARP) weights[i] = score;
    else mine = score;
  }
  const float divisor = routing.renorm ? chosen_sum : routing.score == Score::softmax ? sum : 1.0f;
  int i = lane();
  for (; i / WARP < (routing.k - 1) / WARP; i += WARP) weights[i] /= divisor;
  if (i < routing.k) weights[i] = mine / divisor;
}

template <class T, int EACH>
__global__ void __launch_bounds__(THREADS, BLOCKS_A_PROCESSOR) route_kernel(
    const T* __restrict__ logits, float* __restrict__ weights, int* __restrict__ indices, int* __restrict__ counts, float* __restrict__ lse,
    Routing routing) {
  __shared__ int block_counts[EACH ? EACH * WARP : 1];
  for (int expert = threadIdx.x; expert < EACH * WARP; expert += THREADS) block_counts[expert] = 0;
  __syncthreads();
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP; token < routing.tokens;
       token += static_cast<int64_t>(gridDim.x) * WARPS) {
    route_token<T, EACH>(
        logits + token * routing.experts, routing, weights + token * routing.k, indices + token * routing.k, EACH ? block_counts : counts,
        lse + token);
  }
  __syncthreads();
  for (int expert = threadIdx.x; expert < EACH * WARP && expert < routing.experts; expert += THREADS)
    if (block_counts[expert]) atomicAdd(counts + expert, block_counts[expert]);
}

// out[e] = of_all * probability of e, and `of_chosen` more where e was chosen; see moe_topk_route_backward in reference.py.
template <class T, int N>
__global__ void __launch_bounds__(THREADS) route_backward_kernel(
    const float* __restrict__ grad_weights, const float* __restrict__ grad_lse, const T* __restrict__ logits,
    const int* __restrict__ indices, const float* __restrict__ weights, const float* __restrict__ lse, T* grad, Routing routing) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP;
  if (token >= routing.tokens) return;
  logits += token * routing.experts, grad += token * routing.experts;
  grad_weights += token * routing.k, weights += token * routing.k, indices += token * routing.k;
  const bool softmax = routing.score == Score::softmax;

  float mean = 0.0f, score_sum = 0.0f;
  for (int i = lane(); i < routing.k; i += WARP) {
    mean += grad_weights[i] * weights[i];
    if (!softmax) score_sum += sigmoid(to_float(logits[indices[i]]));
  }
  mean = warp_sum(mean);
  score_sum = warp_sum(score_sum);

  const float log_sum = lse[token];
  float of_all = grad_lse ? grad_lse[token] : 0.0f;
  if (softmax && !routing.renorm) of_all -= mean;
  const bool dense = grad_lse || (softmax && !routing.renorm);
  for (int at = lane() * N; at < routing.experts; at += WARP * N) {
    float values[N] = {};
    if (dense) {
      unpack<T, N>(load<T, N>(logits + at), values);
#pragma unroll
      for (int j = 0; j < N; ++j) values[j] = of_all * expf(values[j] - log_sum);
    }
    store<T, N>(grad + at, pack<T, N>(values));
  }
  __syncwarp();  // another lane has written what is written again here
  for (int i = lane(); i < routing.k; i += WARP) {
    const int expert = indices[i];
    const float logit = to_float(logits[expert]), g = grad_weights[i];
    float value = dense ? of_all * expf(logit - log_sum) : 0.0f;
    if (softmax) {
      value += (routing.renorm ? g - mean : g) * weights[i];
    } else {
      const float score = sigmoid(logit);
      value += (routing.renorm ? (g - mean) / score_sum : g) * score * (1.0f - score);
    }
    grad[expert] = from_float<T>(value);
  }
}

}  // namespace

void route(
    Type type, const void* logits, float* weights, int* indices, int* counts, float* lse, Routing routing, cudaStream_t stream) {
  check(cudaMemsetAsync(counts, 0, routing.experts * sizeof(int), stream));
  if (routing.tokens == 0) return;
  const int64_t blocks = std::min<int64_t>(ceil_div(routing.tokens, WARPS), processors() * BLOCKS_A_PROCESSOR);
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](auto kernel) {
      launch(kernel, blocks, THREADS, stream, static_cast<const T*>(logits), weights, indices, counts, lse, routing);
    };
    if (routing.experts <= 32) return run(route_kernel<T, 1>);
    if (routing.experts <= 64) return run(route_kernel<T, 2>);
    if (routing.experts <= 128) return run(route_kernel<T, 4>);
    if (routing.experts <= 256) return run(route_kernel<T, 8>);
    if (routing.experts <= RESIDENT_EXPERTS) return run(route_kernel<T, RESIDENT_EXPERTS / WARP>);
    return run(route_kernel<T, 0>);
  });
}

void route_backward(
    Type type, const float* grad_weights, const float* grad_lse, const void* logits, const int* indices, const float* weights,
    const float* lse, void* grad, Routing routing, cudaStream_t stream) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](auto kernel) {
      launch(
          kernel, ceil_div(routing.tokens, WARPS), THREADS, stream, grad_weights, grad_lse, static_cast<const T*>(logits), indices, weights,
          lse, static_cast<T*>(grad), routing);
    };
    packs_fit<T>(routing.experts, logits, grad) ? run(route_backward_kernel<T, WIDTH<T>>) : run(route_backward_kernel<T, 1>);
  });
}

}  // namespace p2pnode
