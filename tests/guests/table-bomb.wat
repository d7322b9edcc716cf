(table $t 1 funcref)
(func (export "sla-profiler:sweep/strategy@0.1.0#next") (param i32) (result i32)
  (loop $again
    (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
  unreachable)
