//! Reads file, environment and flags into one document, refusing names that do not exist.

use super::{
    Config, ConfigError,
    names::{self, Kind},
};
use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

const PREFIX: &str = "WEIR__";
const FILE_SUFFIX: &str = "_FILE";

pub fn read(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    flags: &[(&str, String)],
) -> Result<Config, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        figment = figment.merge(settings_file(path)?);
    }
    figment = figment.merge(variables(environment)?);
    for (name, text) in flags {
        let kind = names::kind(name).ok_or_else(|| unknown("flag".into(), name, |name| name.to_owned()))?;
        figment = figment.merge(Setting::new(name, value(name, kind, text)?));
    }
    figment.extract().map_err(|error| ConfigError::Invalid { name: error.path.join("."), message: message(&error.kind) })
}

/// What is wrong, without the value: figment's own text would repeat it.
fn message(kind: &figment::error::Kind) -> String {
    use figment::error::Kind as Error;
    match kind {
        Error::InvalidType(_, expected) | Error::InvalidValue(_, expected) => format!("must be {expected}"),
        Error::UnknownVariant(_, variants) => format!("must be one of {}", variants.join(", ")),
        Error::MissingField(field) => format!("lacks {field}"),
        Error::UnknownField(..) | Error::Message(_) => "cannot be used".into(),
        _ => "has a value of the wrong type".into(),
    }
}

/// A provider of one document, already checked.
struct Setting(Dict);

impl Setting {
    fn new(name: &str, value: Value) -> Self {
        let mut keys = name.rsplit('.');
        let last = keys.next().unwrap_or_default().to_owned();
        let innermost = Dict::from([(last, value)]);
        Self(keys.fold(innermost, |inner, key| Dict::from([(key.to_owned(), Value::from(inner))])))
    }
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        Metadata::named("settings")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}

fn settings_file(path: &Path) -> Result<Setting, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::File { name: "--config".into(), path: path.into(), source })?;
    let syntax = |error: figment::Error| ConfigError::Syntax { path: path.into(), message: error.to_string() };
    let document = Toml::string(&text).data().map_err(syntax)?.remove(&Profile::Default).unwrap_or_default();
    known_only(&path.display().to_string(), "", &document)?;
    Ok(Setting(document))
}

fn known_only(origin: &str, prefix: &str, document: &Dict) -> Result<(), ConfigError> {
    for (key, value) in document {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Dict(_, inner) => known_only(origin, &name, inner)?,
            _ if names::kind(&name).is_some() => {}
            _ => return Err(unknown(origin.into(), &name, ToOwned::to_owned)),
        }
    }
    Ok(())
}

fn unknown(origin: String, name: &str, spelling: impl Fn(&str) -> String) -> ConfigError {
    ConfigError::Unknown { origin, name: spelling(name), nearest: spelling(names::nearest(name)) }
}

fn variables(environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Figment, ConfigError> {
    let mut figment = Figment::new();
    for (variable, text) in environment {
        let Some(variable) = variable.to_str() else { continue };
        let Some(key) = variable.strip_prefix(PREFIX) else { continue };
        let name = key.to_lowercase().replace("__", ".");
        let text = text.into_string().map_err(|_| ConfigError::Invalid { name: variable.into(), message: "is not UTF-8".into() })?;
        if let Some(kind) = names::kind(&name) {
            figment = figment.merge(Setting::new(&name, value(variable, kind, &text)?));
        } else if let Some((name, kind)) = secret_file(key) {
            let text = read_secret(variable, &text)?;
            figment = figment.merge(Setting::new(&name, value(variable, kind, &text)?));
        } else {
            return Err(unknown("environment".into(), &name, names::variable));
        }
    }
    Ok(figment)
}

/// `ADMIN__API_KEY_FILE` names a file that holds `admin.api_key`.
fn secret_file(key: &str) -> Option<(String, Kind)> {
    let name = key.strip_suffix(FILE_SUFFIX)?.to_lowercase().replace("__", ".");
    names::kind(&name).map(|kind| (name, kind))
}

fn read_secret(variable: &str, path: &str) -> Result<String, ConfigError> {
    let path = PathBuf::from(path);
    let text = fs::read_to_string(&path).map_err(|source| ConfigError::File { name: variable.into(), path, source })?;
    Ok(text.trim().to_owned())
}

fn value(name: &str, kind: Kind, text: &str) -> Result<Value, ConfigError> {
    let invalid = |message: &str| ConfigError::Invalid { name: name.into(), message: message.into() };
    Ok(match kind {
        Kind::Text => Value::from(text),
        Kind::Whole => Value::from(text.trim().parse::<u32>().map_err(|_| invalid("must be a whole number"))?),
        Kind::Flag => match text.trim().to_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Value::from(true),
            "false" | "0" | "no" | "off" => Value::from(false),
            _ => return Err(invalid("must be true or false")),
        },
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::from(items.map(Value::from).collect::<Vec<_>>())
        }
    })
}
