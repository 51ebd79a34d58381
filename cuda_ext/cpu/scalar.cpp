#include "vector_scalar.h"
#include "table.inc.h"

namespace p2pnode {
constexpr Kernels scalar = table("scalar");
}
