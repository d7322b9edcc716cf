use super::*;

const JOB: &str = r#"{"model": "Qwen/Qwen3-8B", "hardware": {"gpuSku": "h200_sxm"}, "workload": {"isl": 1000, "requestRate": 5},
    "sla": {"ttft": 400, "itl": 15}, "profiler": {"sweep": {"plugin": "sweep-grid", "settings": {"a": 1, "b": 2}}}}"#;

fn job(flags: &Flags) -> Resolved {
    load(&Source::Inline(JOB.to_owned()), flags).unwrap()
}

fn origin<'a>(resolved: &'a Resolved, path: &str) -> &'a Origin {
    &resolved.origins.iter().find(|entry| entry.path == path).unwrap_or_else(|| panic!("{path}")).origin
}

fn refused(flags: &Flags) -> SpecError {
    load(&Source::Inline(JOB.to_owned()), flags).unwrap_err()
}

#[test]
fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
    let resolved = job(&Flags { isl: Some(2000), ..Flags::default() });
    let workload = resolved.spec.job.workload;
    assert_eq!((workload.isl, workload.osl), (2000, 1000));
    assert_eq!(*origin(&resolved, "workload.isl"), Origin::Flag("--isl".into()));
    assert_eq!(*origin(&resolved, "workload.osl"), Origin::Default);
    assert_eq!(*origin(&resolved, "sla.ttft"), Origin::File { line: 2 });
    assert_eq!(*origin(&resolved, "hardware.totalGpus"), Origin::Derived("one node".into()));
}

#[test]
fn a_flag_replaces_the_alternative_that_the_file_gives() {
    let sla = job(&Flags { e2e_latency: Some(3000.0), ..Flags::default() }).spec.job.sla;
    assert_eq!((sla.ttft_ms, sla.itl_ms, sla.e2e_ms), (None, None, Some(3000.0)));
    let demand = job(&Flags { concurrency: Some(7.0), ..Flags::default() }).spec.job.demand;
    assert_eq!(demand, Demand::Concurrency(7));
    let file = r#"{"model": "Qwen/Qwen3-8B", "hardware": {"gpuSku": "h200_sxm"}, "sla": {"e2eLatency": 9000}}"#;
    let flags = Flags { ttft: Some(100.0), ..Flags::default() };
    let sla = load(&Source::Inline(file.into()), &flags).unwrap().spec.job.sla;
    assert_eq!((sla.ttft_ms, sla.itl_ms, sla.e2e_ms), (Some(100.0), Some(30.0), None));
}

#[test]
fn a_senseless_flag_is_blamed_by_name() {
    let cases = [
        (Flags { ttft: Some(-5.0), ..Flags::default() }, "--ttft"),
        (Flags { itl: Some(f64::NAN), ..Flags::default() }, "--itl"),
        (Flags { e2e_latency: Some(0.0), ..Flags::default() }, "--e2e-latency"),
        (Flags { sla_quantile: Some(1.0), ..Flags::default() }, "--sla-quantile"),
        (Flags { request_rate: Some(f64::INFINITY), ..Flags::default() }, "--request-rate"),
        (Flags { concurrency: Some(0.5), ..Flags::default() }, "--concurrency"),
        (Flags { isl: Some(0), ..Flags::default() }, "--isl"),
        (Flags { isl: Some(u32::MAX), osl: Some(u32::MAX), ..Flags::default() }, "--isl"),
        (Flags { total_gpus: Some(0), ..Flags::default() }, "--total-gpus"),
        (Flags { num_gpus_per_node: Some(u32::MAX), ..Flags::default() }, "--num-gpus-per-node"),
        (Flags { fault_rate: Some(2.0), ..Flags::default() }, "--fault-rate"),
        (Flags { name: Some("Not A Name".into()), ..Flags::default() }, "--name"),
        (Flags { namespace: Some("-".into()), ..Flags::default() }, "--namespace"),
        (Flags { image: Some("a b".into()), ..Flags::default() }, "--image"),
        (Flags { sweep: Some(" ".into()), ..Flags::default() }, "--sweep"),
        (Flags { min_isl: Some(1 << 30), ..Flags::default() }, "--min-isl"),
    ];
    for (flags, name) in cases {
        let error = refused(&flags);
        assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
        assert!(error.to_string().starts_with(&format!("`{name}` ")), "{error}");
    }
    let error = refused(&Flags { model: Some("no/such".into()), ..Flags::default() });
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[test]
fn settings_stay_with_their_plugin() {
    let setting = vec![("b".to_owned(), "9".to_owned())];
    let resolved = job(&Flags { sweep_setting: setting, ..Flags::default() });
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(resolved.spec.plugins.sweep.settings, [pair("a", "1"), pair("b", "9")]);
    let resolved = job(&Flags { sweep: Some("other".into()), ..Flags::default() });
    assert_eq!(resolved.spec.plugins.sweep.settings, []);
    assert_eq!(resolved.warnings.len(), 1, "{:?}", resolved.warnings);
}

#[test]
fn a_plugin_file_is_relative_to_whoever_names_it() {
    assert_eq!(plugin_source("a.wasm", Some(Path::new("jobs"))), PluginSource::File("jobs/a.wasm".into()));
    assert_eq!(plugin_source("./a", None), PluginSource::File("./a".into()));
    assert_eq!(plugin_source("/x/a.wasm", Some(Path::new("jobs"))), PluginSource::File("/x/a.wasm".into()));
    assert_eq!(plugin_source("sweep-grid", Some(Path::new("jobs"))), PluginSource::Named("sweep-grid".into()));
}

#[test]
fn figures_come_from_the_flag_the_cache_or_a_local_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "intermediate_size": 4096,
        "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 4, "vocab_size": 1000}"#;
    std::fs::create_dir(folder.path().join("tiny")).unwrap();
    std::fs::write(folder.path().join("tiny/config.json"), config).unwrap();

    let by_flag = job(&Flags { model_config: Some(folder.path().join("tiny")), ..Flags::default() });
    assert_eq!((by_flag.spec.job.model.layers, by_flag.spec.job.model.name.as_str()), (4, "Qwen/Qwen3-8B"));
    assert_eq!(*origin(&by_flag, "modelFigures"), Origin::Flag("--model-config".into()));

    let mount = folder.path().to_str().unwrap();
    let cached = serde_json::json!({ "model": "acme/tiny", "hardware": { "gpuSku": "h200_sxm" },
        "modelCache": { "pvcName": "w", "pvcModelPath": "tiny", "pvcMountPath": mount } });
    // The default workload is longer than this model's context leaves room for.
    let short = Flags { isl: Some(500), ..Flags::default() };
    let cached = load(&Source::Inline(cached.to_string()), &short).unwrap();
    assert_eq!(cached.spec.job.model.layers, 4);

    let local = serde_json::json!({ "model": format!("{mount}/tiny"), "hardware": { "gpuSku": "h200_sxm" } });
    let local = load(&Source::Inline(local.to_string()), &short).unwrap();
    assert_eq!(local.spec.job.model.layers, 4);
}

#[test]
fn figures_in_the_file_are_not_of_a_model_that_a_flag_names() {
    let mut figures = serde_json::to_value(find_model("Qwen/Qwen3-8B").unwrap()).unwrap();
    figures["name"] = "acme/x".into();
    let file = serde_json::json!({ "hardware": { "gpuSku": "h200_sxm" }, "profiler": { "model": figures } });
    let source = Source::Inline(file.to_string());
    assert_eq!(load(&source, &Flags::default()).unwrap().spec.job.model.name, "acme/x");
    let other = Flags { model: Some("Qwen/Qwen3-32B".into()), ..Flags::default() };
    let resolved = load(&source, &other).unwrap();
    assert_eq!(resolved.spec.job.model.layers, 64);
    assert_eq!(resolved.warnings.len(), 1);
}

#[test]
fn a_context_above_the_models_is_cut_to_it() {
    let resolved = job(&Flags { max_context_length: Some(1 << 20), ..Flags::default() });
    assert_eq!(resolved.spec.job.max_context_tokens, 40960);
    assert_eq!(resolved.warnings.len(), 1);
    assert_eq!(resolved.spec.curve.max_isl, 40960 - 1000);
}

mod mutated {
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;

    /// The golden inputs, good and bad.
    fn corpus() -> &'static [String] {
        static CORPUS: OnceLock<Vec<String>> = OnceLock::new();
        CORPUS.get_or_init(|| {
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/input");
            let mut texts: Vec<String> = ["valid", "invalid"]
                .iter()
                .flat_map(|folder| std::fs::read_dir(golden.join(folder)).unwrap())
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension != "expected"))
                .map(|path| std::fs::read_to_string(path).unwrap())
                .collect();
            texts.sort();
            assert!(texts.len() > 40);
            texts
        })
    }

    #[derive(Debug, Clone)]
    enum Edit {
        Remove(prop::sample::Index, usize),
        Repeat(prop::sample::Index, usize),
        Insert(prop::sample::Index, String),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let at = any::<prop::sample::Index>;
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            "- ",
            "\n",
            "  ",
            "\t",
            "\"",
            "'",
            "&a ",
            "*a",
            "!!x ",
            "|",
            ">",
            "#",
            "---\n",
            ".nan",
            "-1",
            "0",
            "1e999",
            "99999999999999999999999",
            "null",
            "~",
            "<<: ",
            "?",
            "%",
            "\0",
            "\u{feff}",
            "é",
        ]);
        prop_oneof![
            (at(), 1..20_usize).prop_map(|(at, n)| Edit::Remove(at, n)),
            (at(), 1..40_usize).prop_map(|(at, n)| Edit::Repeat(at, n)),
            (at(), token).prop_map(|(at, token)| Edit::Insert(at, token.to_owned())),
            (at(), any::<char>()).prop_map(|(at, c)| Edit::Insert(at, c.to_string())),
        ]
    }

    fn apply(text: &str, edits: &[Edit]) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for edit in edits {
            let (Edit::Remove(at, _) | Edit::Repeat(at, _) | Edit::Insert(at, _)) = edit;
            let at = at.index(chars.len() + 1);
            match edit {
                Edit::Remove(_, n) => drop(chars.drain(at..(at + n).min(chars.len()))),
                Edit::Repeat(_, n) => {
                    let part: Vec<char> = chars[at..(at + n).min(chars.len())].to_vec();
                    drop(chars.splice(at..at, part));
                }
                Edit::Insert(_, token) => drop(chars.splice(at..at, token.chars())),
            }
        }
        chars.into_iter().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        /// Whatever comes in, the answer is a job that makes sense or an error that can be shown.
        #[test]
        fn no_input_makes_it_panic(which in any::<prop::sample::Index>(), edits in prop::collection::vec(edit(), 1..6)) {
            let corpus = corpus();
            let text = apply(&corpus[which.index(corpus.len())], &edits);
            match load(&Source::Inline(text), &Flags::default()) {
                Ok(resolved) => {
                    let sla = resolved.spec.job.sla;
                    for target in [sla.ttft_ms, sla.itl_ms, sla.e2e_ms].into_iter().flatten() {
                        prop_assert!(target.is_finite() && target > 0.0);
                    }
                    prop_assert!(resolved.spec.curve.min_isl <= resolved.spec.curve.max_isl);
                }
                Err(error) => {
                    prop_assert!(error.render().starts_with(&error.to_string()));
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }
}
