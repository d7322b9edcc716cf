;; Takes memory until it gets none, and crashes then, as a Rust plugin does.
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (loop $again
    (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
  unreachable)
