//! What a file is, read from its bytes before anything is compiled: compiling is where a hostile file costs most.

use wasmtime::Engine;
use wasmtime::wasmparser::component_types::{ComponentAnyTypeId, ComponentEntityType, ComponentItem};
use wasmtime::wasmparser::types::{Types, TypesRef};
use wasmtime::wasmparser::{BinaryReaderError, Parser, Payload, ValidPayload, Validator, WasmFeatures};

use super::api::Kind;
use super::contract::{self, ABOUT, FILES, IMPORTS, NAMESPACE};
use super::error::LoadProblem;
use super::text;

/// A component's imports and exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surface {
    /// In the file's order.
    pub imports: Vec<Item>,
    /// In the file's order.
    pub exports: Vec<Item>,
}

/// An import or an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// `sla-profiler:base/log@0.1.0`
    pub name: String,
    /// What can be called or created through it. Empty for an interface that holds types only.
    pub abilities: Vec<String>,
}

impl Surface {
    /// Reads a file that declares at most so many bytes.
    ///
    /// # Errors
    /// Each way in which the bytes are no component, told apart; and one that declares more.
    pub(super) fn read(bytes: &[u8], declared_bytes: usize) -> Result<Self, LoadProblem> {
        if bytes.is_empty() {
            return Err(LoadProblem::Empty);
        }
        if Engine::detect_precompiled(bytes).is_some() {
            return Err(LoadProblem::Precompiled);
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(LoadProblem::NotWasm);
        }
        if Parser::is_core_wasm(bytes) {
            return Err(LoadProblem::CoreModule);
        }
        let malformed = |error: BinaryReaderError| LoadProblem::Malformed(text::reason(&error));
        if !declares_at_most(bytes, declared_bytes).map_err(malformed)? {
            return Err(LoadProblem::DeclaresTooMuch { limit: declared_bytes });
        }
        Self::outermost(bytes).map_err(malformed)
    }

    /// The items of the outermost component; those of modules and components within it are nobody's business.
    ///
    /// Everything is validated except for the bodies of functions: the compiler does that, and a plugin from the cache has
    /// been through it.
    fn outermost(bytes: &[u8]) -> Result<Self, BinaryReaderError> {
        let mut validator = Validator::new_with_features(WasmFeatures::default());
        let (mut imports, mut exports) = (Vec::new(), Vec::new());
        let mut depth = 0_usize;
        let mut types = None;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            if let ValidPayload::End(found) = validator.payload(&payload)? {
                // The outermost component ends last.
                types = Some(found);
            }
            match payload {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        imports.push(import?.name.name);
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        exports.push(export?.name.name);
                    }
                }
                _ => {}
            }
        }
        let Some(types) = types.as_ref().map(Types::as_ref) else {
            return Ok(Self { imports: Vec::new(), exports: Vec::new() });
        };
        let import = |name| Item::new(name, types.component_item_for_import(name), types);
        let export = |name| Item::new(name, types.component_item_for_export(name), types);
        Ok(Self {
            imports: imports.into_iter().map(import).collect(),
            exports: exports.into_iter().map(export).collect(),
        })
    }

    /// Which kind of plugin this is, and that nothing stands against running it.
    ///
    /// # Errors
    /// Wrong kind, wrong version, no plugin at all, or imports that are refused.
    pub(super) fn check(&self, wanted: Option<Kind>) -> Result<Kind, LoadProblem> {
        let kind = self.kind(wanted)?;
        self.require(ABOUT)?;
        let refused: Vec<String> = self.imports.iter().filter_map(Item::refused).collect();
        if refused.is_empty() { Ok(kind) } else { Err(LoadProblem::RefusedImports(refused)) }
    }

    fn kind(&self, wanted: Option<Kind>) -> Result<Kind, LoadProblem> {
        let of_kind = |kind: &Kind| self.exports.iter().any(|e| e.interface() == contract::interface(*kind));
        let found = wanted.filter(of_kind).or_else(|| Kind::ALL.into_iter().find(of_kind));
        match (found, wanted) {
            (None, _) => match self.exports.iter().find(|e| e.name.starts_with(NAMESPACE)) {
                None => Err(LoadProblem::NotAPlugin {
                    exports: self.exports.iter().map(|e| text::one_line(&e.name, 120)).collect(),
                }),
                Some(_) => {
                    Err(LoadProblem::Incomplete { interface: contract::interface(wanted.unwrap_or(Kind::ALL[0])) })
                }
            },
            (Some(found), Some(wanted)) if found != wanted => Err(LoadProblem::WrongKind { found, wanted }),
            (Some(found), _) => self.require(contract::interface(found)).map(|()| found),
        }
    }

    /// The interface is exported, in a version that this program speaks.
    fn require(&self, interface: &'static str) -> Result<(), LoadProblem> {
        let export = self.exports.iter().find(|e| e.interface() == interface);
        let version = export.ok_or(LoadProblem::Incomplete { interface })?.version();
        if contract::is_compatible(version) {
            return Ok(());
        }
        Err(LoadProblem::WrongVersion { interface: interface.to_owned(), plugin: text::one_line(version, 40) })
    }

    /// The import that asks for folders to read.
    pub(super) fn files(&self) -> Option<&str> {
        let asks = |import: &&Item| import.interface() == FILES.0 && !import.abilities.is_empty();
        self.imports.iter().find(asks).map(|import| import.name.as_str())
    }

    /// The version of the contract that the plugin was built against.
    pub(super) fn contract_version(&self, kind: Kind) -> Option<&str> {
        self.exports.iter().find(|e| e.interface() == contract::interface(kind)).map(Item::version)
    }
}

impl Item {
    fn new(name: &str, item: Option<&ComponentItem>, types: TypesRef<'_>) -> Self {
        let abilities = match item.map(|item| item.ty) {
            Some(ComponentEntityType::Instance(id)) => types
                .get(id)
                .into_iter()
                .flat_map(|instance| &instance.exports)
                .filter(|(_, item)| is_ability(&item.ty))
                .map(|(name, _)| name.clone())
                .collect(),
            Some(ty) if !is_ability(&ty) => Vec::new(),
            // Whatever it is, it is more than a type.
            Some(_) | None => vec![name.to_owned()],
        };
        Self { name: name.to_owned(), abilities }
    }

    fn interface(&self) -> &str {
        contract::split_version(&self.name).0
    }

    fn version(&self) -> &str {
        contract::split_version(&self.name).1
    }

    /// What of this import is refused, in words.
    fn refused(&self) -> Option<String> {
        let name = text::one_line(&self.name, 120);
        if self.abilities.is_empty() {
            return None;
        }
        let given = IMPORTS.into_iter().find(|(interface, _)| *interface == self.interface());
        let Some((_, functions)) = given.filter(|_| contract::is_compatible(self.version())) else {
            return Some(name);
        };
        let newer: Vec<&String> = self.abilities.iter().filter(|f| !functions.contains(&f.as_str())).collect();
        (!newer.is_empty()).then(|| format!("{name} ({})", text::list(&newer, 10)))
    }
}

/// Whether the file's declarations, those of all that it holds among them, take so many bytes at most: whoever validates
/// them keeps each in memory. Code, data, elements and custom sections are read and forgotten.
fn declares_at_most(bytes: &[u8], limit: usize) -> Result<bool, BinaryReaderError> {
    let mut declared = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        let is_declaration = !matches!(
            payload,
            Payload::CustomSection(_)
                | Payload::CodeSectionStart { .. }
                | Payload::CodeSectionEntry(_)
                | Payload::DataSection(_)
                | Payload::ElementSection(_)
                | Payload::ModuleSection { .. }
                | Payload::ComponentSection { .. }
        );
        if let Some((_, range)) = payload.as_section().filter(|_| is_declaration) {
            declared = declared.saturating_add(range.len());
        }
        if declared > limit {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Types ask for nothing, except for resources: these are handles to something that the host would have to own.
fn is_ability(ty: &ComponentEntityType) -> bool {
    !matches!(ty, ComponentEntityType::Type { created, .. } if !matches!(created, ComponentAnyTypeId::Resource(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Surface, LoadProblem> {
        Surface::read(bytes, 1 << 20)
    }

    fn surface(component: &str) -> Surface {
        read(&wat::parse_str(component).expect("a test's own text")).expect("a component")
    }

    fn exporting(names: &[&str]) -> Surface {
        let exports: String = names.iter().map(|name| format!("(export \"{name}\" (instance $empty))")).collect();
        surface(&format!("(component (instance $empty) {exports})"))
    }

    #[test]
    fn what_is_no_component_is_told_apart() {
        let core = wat::parse_str("(module)").expect("valid");
        assert!(matches!(read(b""), Err(LoadProblem::Empty)));
        assert!(matches!(read(b"#!/bin/sh\n"), Err(LoadProblem::NotWasm)));
        assert!(matches!(read(&core), Err(LoadProblem::CoreModule)));
        let component = wat::parse_str("(component (import \"f\" (func)))").expect("valid");
        assert!(matches!(read(&component[..component.len() - 1]), Err(LoadProblem::Malformed(_))));
        assert!(matches!(read(b"\0asm"), Err(LoadProblem::Malformed(_))));
    }

    #[test]
    fn names_in_a_file_do_nothing_to_the_terminal() {
        let name = "a:b/c@1.0.0";
        let component = wat::parse_str(format!("(component (import \"{name}\" (func)))")).expect("valid");
        let hostile = String::from_utf8_lossy(&component).replace(name, "a:b/c@\x1b[2J\n");
        let Err(LoadProblem::Malformed(reason)) = read(hostile.as_bytes()) else { panic!("it is malformed") };
        assert!(reason.contains("import name") && !reason.chars().any(char::is_control), "{reason:?}");
    }

    #[test]
    fn types_ask_for_nothing_and_functions_and_resources_do() {
        let surface = surface(
            r#"(component
                (import "a:b/types@1.0.0" (instance (type $u u32) (export "t" (type (eq $u)))))
                (import "a:b/fs@1.0.0" (instance (export "file" (type (sub resource)))))
                (import "sla-profiler:base/log@0.1.3" (instance (export "write" (func)) (export "flush" (func))))
                (import "sla-profiler:base/log@0.2.0" (instance (export "write" (func))))
                (import "run" (func)))"#,
        );
        let refused: Vec<String> = surface.imports.iter().filter_map(Item::refused).collect();
        let expected = ["a:b/fs@1.0.0", "sla-profiler:base/log@0.1.3 (flush)", "sla-profiler:base/log@0.2.0", "run"];
        assert_eq!(refused, expected);
    }

    #[test]
    fn declarations_are_counted_wherever_they_stand_and_code_and_data_are_not() {
        let exports: String = (0..100).map(|i| format!("(export \"x{i}\" (func 0))")).collect();
        let module =
            format!("(core module (func) {exports} (memory 1) (data (i32.const 0) \"{}\"))", "x".repeat(10_000));
        for component in [format!("(component {module})"), format!("(component (component {module}))")] {
            let component = wat::parse_str(component).expect("valid");
            assert!(Surface::read(&component, 2_000).is_ok());
            let refused = Surface::read(&component, 500);
            assert!(matches!(refused, Err(LoadProblem::DeclaresTooMuch { limit: 500 })), "{refused:?}");
        }
    }

    #[test]
    fn imports_of_components_within_do_not_count() {
        let surface = surface(r#"(component (component (import "a:b/c" (instance (export "f" (func))))))"#);
        assert_eq!(surface.imports, []);
    }

    #[test]
    fn kind_and_version_are_read_from_the_exports() {
        let about = "sla-profiler:base/about@0.1.0";
        let sweep = exporting(&["sla-profiler:sweep/strategy@0.1.4", about]);
        assert!(matches!(sweep.check(None), Ok(Kind::SweepStrategy)));
        assert!(matches!(
            sweep.check(Some(Kind::PlannerModel)),
            Err(LoadProblem::WrongKind { found: Kind::SweepStrategy, wanted: Kind::PlannerModel })
        ));
        assert_eq!(sweep.contract_version(Kind::SweepStrategy), Some("0.1.4"));

        let newer = exporting(&["sla-profiler:sweep/strategy@0.2.0", about]).check(Some(Kind::SweepStrategy));
        assert!(matches!(newer, Err(LoadProblem::WrongVersion { plugin, .. }) if plugin == "0.2.0"));

        let silent = exporting(&["sla-profiler:sweep/strategy@0.1.0"]).check(None);
        assert!(matches!(silent, Err(LoadProblem::Incomplete { interface: ABOUT })));

        let stranger = exporting(&["wasi:cli/run@0.2.0"]).check(None);
        assert!(matches!(stranger, Err(LoadProblem::NotAPlugin { exports }) if exports == ["wasi:cli/run@0.2.0"]));
    }

    #[test]
    fn a_component_of_two_kinds_serves_as_either() {
        let both = exporting(&[
            "sla-profiler:sweep/strategy@0.1.0",
            "sla-profiler:planner/model@0.1.0",
            "sla-profiler:base/about@0.1.0",
        ]);
        for kind in [Kind::SweepStrategy, Kind::PlannerModel] {
            assert!(matches!(both.check(Some(kind)), Ok(found) if found == kind));
        }
    }
}
