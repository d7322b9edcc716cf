//! How long a forward pass takes at best: the analytic model behind priors and the simulated cluster.
