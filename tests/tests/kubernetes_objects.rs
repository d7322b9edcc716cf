//! What we write is what a real API server takes, with strict validation; what it refuses, it names.

mod on_a_cluster {
    use serde_json::json;
    use sla_profiler_tests::kubernetes::{ControlPlane, Namespace, block_on};

    #[test]
    fn smoke() {
        block_on(async {
            let namespace = Namespace::create(ControlPlane::shared(), "smoke").await;
            let dgd = json!({"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": {"name": "a"},
              "spec": {"components": [{"name":"Frontend","type":"frontend","podTemplate":{"spec":{"containers":[{"name":"main","image":"x", "ports":[{"containerPort":1}]}]}}}]}});
            println!("{:?}", namespace.dry_run(&dgd).await);
            let dgd = json!({"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": {"name": "a"},
              "spec": {"components": [{"name":"Frontend","type":"frontend","podTemplate":{"spec":{"containers":[{"image":"x", "portz":[{"containerPort":1}]}]}}}]}});
            println!("{:?}", namespace.dry_run(&dgd).await);
        });
    }
}
