(import "sla-profiler:base/log@0.1.0" "write" (func $log (param $level i32) (param $ptr i32) (param $len i32)))

(memory (export "memory") 64)

;; A bump allocator: each decision has a memory of its own.
(global $free (mut i32) (i32.const 1048576))
(func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
  (global.set $free
    (i32.and
      (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
  (global.get $free)
  (global.set $free (i32.add (global.get $free) (local.get $size))))

;; name "guest", version "0.0.1", summary "Test.", one setting: "depth", default "1", help "How deep."
(data (i32.const 1024) "guest0.0.1Test.depth1How deep.")
(data (i32.const 1088)
  (i32 1024 5 1029 5 1034 5 1120 1))
(data (i32.const 1120)
  (i32 1039 5 1044 1 1045 9))
