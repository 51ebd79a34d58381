// silu(gate) * up and its gradient, of two tensors or of the halves of one.
//
// Roofline: of n results of b bytes, forward moves 3nb and backward 5nb, and computes 12 to 25 instructions a value: bound by memory in every
// type. An H200 (4.3 TB/s as torch copies) takes 164 us forward and 273 us backward for 8192 x 14336 in bf16; torch's own expressions move
// 5nb and 9nb, and 4nb more where autograd joins the halves. What a thread loads it loads before it computes: 64 bytes forward, 48 backward,
// 48 KiB and more of each multiprocessor under way, which is twice what 4.8 TB/s at 700 ns asks for.
#include "common.cuh"

namespace p2pnode {
namespace {

constexpr int EACH = 2;

template <class T, int N>
__global__ void __launch_bounds__(THREADS)
    swiglu_kernel(Grid grid, const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ out, int64_t stride) {
  const int64_t row = grid_row(grid), first = grid_pack<EACH>(grid);
  if (row >= grid.rows) return;
  gate += row * stride, up += row * stride, out += row * grid.packs * N;
  Pack<T, N> gates[EACH], ups[EACH];
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int64_t at = first + i * blockDim.x;
    if (at < grid.packs) gates[i] = load<T, N>(gate + at * N), ups[i] = load<T, N>(up + at * N);
  }
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int64_t at = first + i * blockDim.x;
    if (at >= grid.packs) return;
    float g[N], u[N];
    unpack<T, N>(gates[i], g), unpack<T, N>(ups[i], u);
#pragma unroll
    for (int j = 0; j < N; ++j) u[j] *= g[j] * sigmoid(g[j]);
    store<T, N>(out + at * N, pack<T, N>(u));
  }
}

template <class T, int N>
__global__ void __launch_bounds__(THREADS) swiglu_backward_kernel(
    Grid grid, const T* __restrict__ grad, const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ grad_gate,
    T* __restrict__ grad_up, int64_t stride) {
  const int64_t row = grid_row(grid), at = grid_pack<1>(grid);
  if (row >= grid.rows || at >= grid.packs) return;
  const int64_t half = row * stride + at * N;
  float d[N], g[N], u[N];
  const Pack<T, N> grads = load<T, N>(grad + (row * grid.packs + at) * N), gates = load<T, N>(gate + half), ups = load<T, N>(up + half);
  unpack<T, N>(grads, d), unpack<T, N>(gates, g), unpack<T, N>(ups, u);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float s = sigmoid(g[j]), silu = g[j] * s;
    g[j] = (s + silu * (1.0f - s)) * u[j] * d[j];
    u[j] = silu * d[j];
  }
  store<T, N>(grad_gate + half, pack<T, N>(g));
  store<T, N>(grad_up + half, pack<T, N>(u));
}

// Calls `run(first, halves, pack)` for the values from `first` on, in packs as wide as the addresses allow. A lone row may end in values that
// fill no pack; they get a launch of their own, one value a thread.
template <class T, class Run, class... Pointers>
void in_packs(Halves halves, Run run, Pointers... pointers) {
  using Wide = std::integral_constant<int, WIDTH<T>>;
  using Narrow = std::integral_constant<int, 1>;
  const int64_t whole = halves.rows == 1 ? halves.columns / WIDTH<T> * WIDTH<T> : halves.columns;
  if (!packs_fit<T>(whole, pointers...)) return run(int64_t{0}, halves, Narrow());
  run(int64_t{0}, Halves{halves.rows, whole, halves.stride}, Wide());
  if (whole < halves.columns) run(whole, Halves{1, halves.columns - whole, halves.stride}, Narrow());
}

}  // namespace

void swiglu(Type type, const void* gate, const void* up, void* out, Halves halves, cudaStream_t stream) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](int64_t first, Halves part, auto width) {
      constexpr int N = decltype(width)::value;
      launch_rows<EACH>(
          swiglu_kernel<T, N>, part.rows, part.columns / N, stream, static_cast<const T*>(gate) + first, static_cast<const T*>(up) + first,
          static_cast<T*>(out) + first, part.stride);
    };
    in_packs<T>(halves, run, gate, up, out);
  });
}

void swiglu_backward(
    Type type, const void* grad, const void* gate, const void* up, void* grad_gate, void* grad_up, Halves halves, cudaStream_t stream) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](int64_t first, Halves part, auto width) {
      constexpr int N = decltype(width)::value;
      launch_rows<1>(
          swiglu_backward_kernel<T, N>, part.rows, part.columns / N, stream, static_cast<const T*>(grad) + first,
          static_cast<const T*>(gate) + first, static_cast<const T*>(up) + first, static_cast<T*>(grad_gate) + first,
          static_cast<T*>(grad_up) + first, part.stride);
    };
    in_packs<T>(halves, run, grad, gate, up, grad_gate, grad_up);
  });
}

}  // namespace p2pnode
