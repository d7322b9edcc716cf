// The OCI registry that tests start for themselves; `cargo xtask registry` builds it.
module sla-profiler.invalid/registry

go 1.26.0

tool github.com/google/go-containerregistry/cmd/registry

require github.com/google/go-containerregistry v0.22.1 // indirect
