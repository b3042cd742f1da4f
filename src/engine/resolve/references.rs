//! Which table names which: binding, and what a stage's recipe takes from the tables it names.

use std::collections::BTreeMap;
use std::sync::Arc;

use stillhouse_spec::types::one_of;
use stillhouse_spec::{Canonical, Described, Diagnostic, Diagnostics, FileUse, Reference};
use stillhouse_stage::{Kind, Surroundings, View};

use super::cell::CellTables;
use super::cycles;
use crate::experiment::{Stage, TableForm};

/// Label → path of the field → label of the table that it names.
pub(super) type Bound = BTreeMap<String, BTreeMap<String, String>>;

/// The bound references of one cell.
pub(super) struct Reach {
    bound: Bound,
    /// Names that are followed when a kind looks around, and make no graph.
    mentioned: Bound,
    /// Labels, each after all that it names.
    pub(super) order: Vec<String>,
}

/// What a stage's table and the definitions it names contribute to its recipe.
pub(super) struct Expanded {
    pub(super) identity: Canonical,
    pub(super) inputs: BTreeMap<String, (String, Vec<&'static str>)>,
    pub(super) files: BTreeMap<String, FileUse>,
    pub(super) definitions: BTreeMap<String, Arc<TableForm>>,
    pub(super) mentions: BTreeMap<String, Arc<TableForm>>,
}

impl Reach {
    /// Binds every reference; `None` if a name does not resolve or names go in a circle.
    pub(super) fn of(tables: &CellTables, kinds: &[&'static dyn Kind], report: &mut Diagnostics) -> Option<Self> {
        let (mut bound, mut mentioned) = (Bound::new(), Bound::new());
        let mut whole = true;
        for (label, table) in tables.iter() {
            let mut references = Vec::new();
            collect(&table.described, &mut String::new(), &mut references);
            let (mut links, mut mentions) = (BTreeMap::new(), BTreeMap::new());
            for (path, reference, mention) in references {
                let into = if mention { &mut mentions } else { &mut links };
                match bind(&reference, tables, kinds) {
                    Ok(target) => _ = into.insert(path, target),
                    Err(Some(error)) => {
                        report.push(error);
                        whole = false;
                    }
                    // The table is there but faulty: that is reported already.
                    Err(None) => whole = false,
                }
            }
            bound.insert(label.to_owned(), links);
            mentioned.insert(label.to_owned(), mentions);
        }
        for reference in &tables.loose {
            if let Err(Some(error)) = bind(reference, tables, kinds) {
                report.push(error);
            }
        }
        let order = cycles::order(&bound, tables, report)?;
        whole.then_some(Self { bound, mentioned, order })
    }

    /// Path → label of every table that a table names.
    pub(super) fn links(&self, label: &str) -> impl Iterator<Item = (&str, &str)> {
        self.bound.get(label).into_iter().flatten().map(|(path, target)| (path.as_str(), target.as_str()))
    }

    /// Lets every kind look around.
    pub(super) fn check(&self, tables: &CellTables, report: &mut Diagnostics) {
        let around = Around { tables, reach: self };
        for (label, table) in tables.iter() {
            let view = View::new(label, table.kind, table.config.as_ref(), table.at, &around).with_body(&table.body);
            table.kind.check(&view, report);
        }
    }

    /// Puts the definitions that a stage names in the place of their names.
    pub(super) fn expand(&self, table: &Arc<TableForm>, tables: &CellTables) -> Expanded {
        let mut expanded = Expanded {
            identity: Canonical::Null,
            inputs: BTreeMap::new(),
            files: BTreeMap::new(),
            definitions: BTreeMap::new(),
            mentions: BTreeMap::new(),
        };
        let here = Place { label: &table.label, prefix: "", path: "" };
        let identity = self.expand_described(&table.described, here, tables, &mut expanded);
        expanded.identity = identity.unwrap_or_else(|| Canonical::Object(BTreeMap::new()));
        expanded
    }

    fn expand_described(
        &self,
        described: &Described,
        place: Place<'_>,
        tables: &CellTables,
        out: &mut Expanded,
    ) -> Option<Canonical> {
        let full = join(place.prefix, place.path);
        match described {
            Described::Value(value) => Some(value.clone()),
            Described::Nothing => None,
            Described::Mention(_) => {
                let target = self.mentioned.get(place.label)?.get(place.path)?;
                let (_, table) = tables.get(target)?;
                out.mentions.insert(full, Arc::clone(table));
                None
            }
            Described::Table(members) => {
                let values = members.iter().filter_map(|(name, member)| {
                    let path = join(place.path, name);
                    let value = self.expand_described(member, Place { path: &path, ..place }, tables, out)?;
                    Some((name.clone(), value))
                });
                Some(Canonical::object(values.collect::<Vec<_>>()))
            }
            Described::List(items) => {
                let values = items.iter().enumerate().map(|(index, item)| {
                    let path = join(place.path, &index.to_string());
                    // A place in a list keeps its number even where the item contributes nothing.
                    self.expand_described(item, Place { path: &path, ..place }, tables, out).unwrap_or(Canonical::Null)
                });
                Some(Canonical::Array(values.collect()))
            }
            Described::File(file) => {
                out.files.insert(full, file.clone());
                None
            }
            Described::Reference(reference) => {
                let target = self.bound.get(place.label)?.get(place.path)?;
                let (_, table) = tables.get(target)?;
                if table.kind.as_stage().is_some() {
                    out.inputs.insert(full, (target.clone(), reference.parts.clone()));
                    return None;
                }
                out.definitions.insert(full.clone(), Arc::clone(table));
                let inside = Place { label: target, prefix: &full, path: "" };
                self.expand_described(&table.described, inside, tables, out)
            }
        }
    }
}

/// Where in an expansion: `prefix` leads from the stage to the table `label`, `path` from that table to the value.
#[derive(Clone, Copy)]
struct Place<'a> {
    label: &'a str,
    prefix: &'a str,
    path: &'a str,
}

/// The cell as kinds see it.
struct Around<'a> {
    tables: &'a CellTables,
    reach: &'a Reach,
}

impl Surroundings for Around<'_> {
    fn follow(&self, label: &str, path: &str) -> Option<View<'_>> {
        let Reach { bound, mentioned, .. } = self.reach;
        let target = [bound, mentioned].into_iter().find_map(|names| names.get(label)?.get(path))?;
        let (_, table) = self.tables.get(target)?;
        Some(View::new(&table.label, table.kind, table.config.as_ref(), table.at, self))
    }
}

/// The definitions of one stage and what is mentioned in them, as its kind sees them when it says what it needs.
pub(crate) struct Definitions<'a> {
    definitions: &'a BTreeMap<String, Arc<TableForm>>,
    mentions: &'a BTreeMap<String, Arc<TableForm>>,
}

impl<'a> Definitions<'a> {
    pub(crate) fn of(stage: &'a Stage) -> Self {
        Self { definitions: &stage.definitions, mentions: &stage.mentions }
    }
}

impl Surroundings for Definitions<'_> {
    fn follow(&self, label: &str, path: &str) -> Option<View<'_>> {
        // Paths of definitions within definitions are those of the stage: `teacher.model`.
        let prefix = self.definitions.iter().find(|(_, table)| table.label == label).map(|(path, _)| path.as_str());
        let full = join(prefix.unwrap_or_default(), path);
        let table = self.definitions.get(&full).or_else(|| self.mentions.get(&full))?;
        Some(View::new(&table.label, table.kind, table.config.as_ref(), table.at, self))
    }
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

/// The names in a table, and of each whether it is only mentioned.
fn collect(described: &Described, path: &mut String, out: &mut Vec<(String, Reference, bool)>) {
    let mut deeper = |name: &str, child: &Described| {
        let length = path.len();
        *path = join(path, name);
        collect(child, path, out);
        path.truncate(length);
    };
    match described {
        Described::Table(members) => members.iter().for_each(|(name, child)| deeper(name, child)),
        Described::List(items) => items.iter().enumerate().for_each(|(index, child)| deeper(&index.to_string(), child)),
        Described::Reference(reference) => out.push((path.clone(), reference.clone(), false)),
        Described::Mention(reference) => out.push((path.clone(), reference.clone(), true)),
        _ => {}
    }
}

/// The label that a reference names. `Err(None)` if the table is there but faulty.
fn bind(reference: &Reference, tables: &CellTables, kinds: &[&'static dyn Kind]) -> Result<String, Option<Diagnostic>> {
    let any_stage: Vec<&'static str>;
    let (name, accepted) = (
        reference.name.as_str(),
        if reference.kinds.is_empty() {
            any_stage = kinds.iter().filter(|kind| kind.as_stage().is_some()).map(|kind| kind.name()).collect();
            any_stage.as_slice()
        } else {
            reference.kinds
        },
    );
    let decoded = |label: String| if tables.get(&label).is_some() { Ok(label) } else { Err(None) };
    if let Some((kind, plain)) = name.split_once('.') {
        if !kinds.iter().any(|known| known.name() == kind) {
            let error = Diagnostic::error(reference.at, format!("unknown kind `{kind}` in `{name}`"));
            return Err(Some(error.suggest(kind, accepted.iter().copied())));
        }
        if !accepted.contains(&kind) {
            let message = format!("`{name}` is a `[{kind}.…]`, {} is needed", one_of(reference.kinds));
            return Err(Some(Diagnostic::error(reference.at, message)));
        }
        if tables.written.contains(name) {
            return decoded(name.to_owned());
        }
        return Err(Some(dangling(reference, plain, accepted, tables)));
    }
    let found: Vec<String> =
        accepted.iter().map(|kind| format!("{kind}.{name}")).filter(|label| tables.written.contains(label)).collect();
    match found.as_slice() {
        [label] => decoded(label.clone()),
        [] => Err(Some(dangling(reference, name, accepted, tables))),
        several => {
            let error = Diagnostic::error(reference.at, format!("`{name}` may be {}", several.join(" or ")));
            Err(Some(error.hint("write the kind before the name")))
        }
    }
}

fn dangling(reference: &Reference, plain: &str, accepted: &[&str], tables: &CellTables) -> Diagnostic {
    let elsewhere = tables.written.iter().find(|label| label.split_once('.').is_some_and(|(_, name)| name == plain));
    if let Some(label) = elsewhere {
        let message = format!("`{}` is `[{label}]`, {} is needed", reference.name, one_of(reference.kinds));
        return Diagnostic::error(reference.at, message);
    }
    let split = tables.written.iter().filter_map(|label| label.split_once('.'));
    let names: Vec<&str> = split.filter(|(kind, _)| accepted.contains(kind)).map(|(_, name)| name).collect();
    let tables_named: Vec<String> = accepted.iter().map(|kind| format!("`[{kind}.{plain}]`")).collect();
    let nothing = match reference.kinds {
        [] => format!("there is no stage `{}`", reference.name),
        _ => format!("there is no {}", tables_named.join(" or ")),
    };
    let error = Diagnostic::error(reference.at, nothing);
    if names.is_empty() { error.hint("add the table") } else { error.suggest(plain, names) }
}
