/* `cc -std=c11 -Wall -Wextra -Werror test.c policy.c -o test && ./test`: the rule by itself, natively. */

#include "policy.h"

#include <stdio.h>

static int failures;
#define CHECK(condition) \
  do { if (!(condition)) { fprintf(stderr, "test.c:%d: %s\n", __LINE__, #condition); failures++; } } while (0)

int main(void) {
  struct point points[] = {
      {0, 8, 4, 5.0, 900.0, true},  {1, 4, 1, 9.0, 300.0, true}, {1, 8, 1, 9.5, 500.0, true},
      {2, 1, 1, 30.0, 100.0, false}, {3, 1, 2, 20.0, 50.0, false},
  };
  size_t n = rank(points, sizeof points / sizeof *points);
  CHECK(n == 4);
  CHECK(points[0].candidate == 1 && points[0].concurrency == 8); /* fewest GPUs, then the most tokens */
  CHECK(points[1].candidate == 0);
  CHECK(points[2].candidate == 3 && points[3].candidate == 2); /* misses: lowest latency first */
  CHECK(score(&points[0]) > score(&points[1]) && score(&points[2]) > score(&points[3]));

  struct point turned[] = {{1, 8, 1, 9.5, 500.0, true}, {5, 8, 1, 9.5, 500.0, true}};
  struct point other[] = {{5, 8, 1, 9.5, 500.0, true}, {1, 8, 1, 9.5, 500.0, true}};
  CHECK(rank(turned, 2) == 2 && rank(other, 2) == 2);
  CHECK(turned[0].candidate == other[0].candidate); /* equal points: the same answer in any order */
  CHECK(rank(points, 0) == 0);
  return failures != 0;
}
