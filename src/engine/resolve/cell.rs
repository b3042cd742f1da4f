//! The tables of one cell, decoded; a table that many cells share is decoded once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use stillhouse_spec::{Canonical, Config, Described, Diagnostic, Diagnostics, Node, Origin, Reference, Value};
use stillhouse_stage::Kind;

use crate::experiment::TableForm;

/// Label → (number of the form, form).
pub(super) struct CellTables {
    tables: BTreeMap<String, (usize, Arc<TableForm>)>,
    /// Every label that stands in the file, decoded or not: a reference to a faulty table is no second fault.
    pub(super) written: BTreeSet<String>,
    /// What the tables name that did not decode: their names are checked all the same.
    pub(super) loose: Vec<Reference>,
}

impl CellTables {
    pub(super) fn get(&self, label: &str) -> Option<(usize, &Arc<TableForm>)> {
        self.tables.get(label).map(|(form, table)| (*form, table))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<TableForm>)> {
        self.tables.iter().map(|(label, (_, table))| (label.as_str(), table))
    }
}

/// (label, text of the body) → form. A form that did not decode is `None`, so that it is reported once.
type Forms = HashMap<(String, String), Option<(usize, Arc<TableForm>)>>;

pub(super) struct Decoder {
    kinds: &'static [&'static dyn Kind],
    forms: Forms,
    /// (label, what it means to a key) → number: forms that differ in execution only are the same stage.
    identities: HashMap<(String, String), usize>,
}

impl Decoder {
    pub(super) fn new(kinds: &'static [&'static dyn Kind]) -> Self {
        Self { kinds, forms: HashMap::new(), identities: HashMap::new() }
    }

    pub(super) fn tables(&mut self, tree: &Node, report: &mut Diagnostics) -> CellTables {
        let mut cell = CellTables { tables: BTreeMap::new(), written: BTreeSet::new(), loose: Vec::new() };
        let Some(root) = tree.as_table() else { return cell };
        for (kind_name, (at, bodies)) in &root.entries {
            if kind_name == "experiment" {
                continue;
            }
            let Some(kind) = self.kinds.iter().copied().find(|kind| kind.name() == kind_name) else {
                let known = self.kinds.iter().map(|kind| kind.name()).chain(["experiment", "sweep", "include"]);
                let error = Diagnostic::error(*at, format!("unknown kind of table `{kind_name}`"));
                report.push(error.suggest(kind_name, known));
                continue;
            };
            let Value::Table(bodies) = &bodies.value else {
                let hint = format!("write `[{kind_name}.some-name]` above its keys");
                report.push(Diagnostic::error(*at, format!("`{kind_name}` must be a table of tables")).hint(hint));
                continue;
            };
            for (name, (name_at, body)) in &bodies.entries {
                self.table(&mut cell, kind, name, *name_at, body, tree, report);
            }
        }
        cell
    }

    #[expect(clippy::too_many_arguments, reason = "one call, in the loop above")]
    fn table(
        &mut self,
        cell: &mut CellTables,
        kind: &'static dyn Kind,
        name: &str,
        name_at: Origin,
        body: &Node,
        tree: &Node,
        report: &mut Diagnostics,
    ) {
        let kind_name = kind.name();
        let label = format!("{kind_name}.{name}");
        if !is_good_name(name) {
            let error = Diagnostic::error(name_at, format!("`{name}` is no good name"));
            report.push(error.hint("names are letters, digits, `-` and `_`"));
        }
        if body.as_table().is_none() {
            let hint = format!("write `[{kind_name}.some-name]` above `{name}`");
            report.push(Diagnostic::error(body.at, format!("`{label}` must be a table")).hint(hint));
            return;
        }
        cell.written.insert(label.clone());
        let body = inherit(kind, &label, name, body, tree, report);
        let text = body.to_json().to_string();
        report.take_references();
        let identities = &mut self.identities;
        let form = self.forms.entry((label.clone(), text)).or_insert_with(|| {
            let form = decode(kind, &label, body, name_at, report)?;
            let next = identities.len();
            let meaning = format!("{:?} {:?}", form.described, form.seed);
            let number = *identities.entry((label.clone(), meaning)).or_insert(next);
            Some((number, Arc::new(form)))
        });
        match form {
            Some(form) => _ = cell.tables.insert(label, form.clone()),
            None => cell.loose.extend(report.take_references()),
        }
    }
}

/// Letters, digits, `-` and `_`: a name appears in file names, paths of keys and on command lines.
fn is_good_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
}

fn decode(
    kind: &'static dyn Kind,
    label: &str,
    mut body: Node,
    at: Origin,
    report: &mut Diagnostics,
) -> Option<TableForm> {
    // Any stage may have a seed of its own; it belongs to the recipe, not to the kind's settings.
    let seed_node = match &mut body.value {
        Value::Table(table) if kind.as_stage().is_some() => table.entries.shift_remove("seed"),
        _ => None,
    };
    let seed = seed_node.map(|(_, node)| u64::decode(&node, report));
    // A table written as `[kind.name]` has no characters of its own to point at: its name stands for it.
    if body.as_table().is_some_and(|table| !table.inline) {
        body.at = at;
    }
    let config = kind.decode(&body, report)?;
    let seed = match seed {
        Some(seed) => Some(seed?),
        None => None,
    };
    let described = config.described();
    if let Some(found) = non_finite(&described) {
        report.push(Diagnostic::error(
            at,
            format!("`{label}` has a setting that is {found}: it cannot be part of a key"),
        ));
        return None;
    }
    Some(TableForm { label: label.to_owned(), kind, body, config, described, at, seed })
}

fn non_finite(described: &Described) -> Option<f64> {
    match described {
        Described::Value(Canonical::Float(value)) if !value.is_finite() => Some(*value),
        Described::Table(members) => members.values().find_map(non_finite),
        Described::List(items) => items.iter().find_map(non_finite),
        _ => None,
    }
}

/// Fills keys that other tables say (see [`Kind::inherits`] and [`Kind::complete`]).
fn inherit(kind: &dyn Kind, label: &str, name: &str, body: &Node, tree: &Node, report: &mut Diagnostics) -> Node {
    let mut body = body.clone();
    for rule in kind.inherits() {
        if body.as_table().is_none_or(|table| table.get(rule.key).is_some()) {
            continue;
        }
        let sources = tree.as_table().and_then(|root| root.get(rule.from_kind)).and_then(Node::as_table);
        let mut given: Vec<(&str, &Node)> = Vec::new();
        for (source_name, (_, source)) in sources.iter().flat_map(|table| &table.entries) {
            let Some(source) = source.as_table() else { continue };
            let linked = source.get(rule.link).and_then(Node::as_str);
            if linked.is_some_and(|text| text == name || text == label)
                && let Some(node) = source.get(rule.from_key)
            {
                given.push((source_name, node));
            }
        }
        let Some((first_name, first)) = given.first().copied() else { continue };
        let differing = given.iter().find(|(_, node)| node.to_json() != first.to_json());
        if let Some((other_name, other)) = differing {
            let message = format!("`{label}` has no `{}`, and those that use it disagree", rule.key);
            let hint = format!(
                "`{0}.{other_name}` says this, `{0}.{first_name}` another: give `[{label}]` a `{1}` of its own",
                rule.from_kind, rule.key
            );
            let error = Diagnostic::error(other.at, message).hint(hint);
            report.push(error.related(first.at, format!("{}.{first_name}", rule.from_kind)));
            continue;
        }
        let at = first.at;
        if let Value::Table(table) = &mut body.value {
            table.set(rule.key, at, first.clone());
        }
    }
    kind.complete(name, &mut body, tree);
    body
}
