//! The three files: their fields, and their text with the comment that says what it is.

use super::{NamePattern, PublicKey, Role, SecretKey, check_key_name};
use serde::Deserialize;

/// Why a text is not a key file. It says where and what, and never quotes the text (rule K1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not TOML, or a field is missing, unknown or of the wrong type.
    #[error("line {line}: not a {what} file; its fields are {fields}")]
    Syntax { line: usize, what: &'static str, fields: &'static str },
    #[error("{field} is not a key of 40 characters (Z85)")]
    Key { field: &'static str },
    /// The role or a pattern of names.
    #[error("{0}")]
    Field(String),
}

/// `broker.key`: the broker's key pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerKey {
    pub public: PublicKey,
    pub secret: SecretKey,
}

/// `NAME.key`: what a client needs to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKey {
    pub name: String,
    pub public: PublicKey,
    pub secret: SecretKey,
    /// The broker's public key: by it the client knows that it speaks to the right one.
    pub broker: PublicKey,
}

/// `clients/NAME.toml`: whom the broker lets in, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    pub name: String,
    pub public: PublicKey,
    pub role: Role,
    /// The names that an agent may register. Unused for other roles.
    pub names: Vec<NamePattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BrokerFields {
    public_key: String,
    secret_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientFields {
    name: String,
    public_key: String,
    secret_key: String,
    broker_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HolderFields {
    name: String,
    public_key: String,
    role: String,
    #[serde(default)]
    names: Vec<String>,
}

impl BrokerKey {
    /// # Errors
    /// See [`KeyFileError`].
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let fields: BrokerFields = read(text, "broker's key", "public_key and secret_key")?;
        Ok(Self { public: public("public_key", &fields.public_key)?, secret: secret(&fields.secret_key)? })
    }

    pub fn to_text(&self) -> String {
        format!(
            "# The broker's own key pair. Made by `ecs-cli keys init`. SECRET: only the broker reads it.\n\
             # If it is lost or seen, move the whole key folder away, make a new one, and hand out new keys.\n\
             public_key = \"{}\"\nsecret_key = \"{}\"\n",
            self.public.as_str(),
            self.secret.reveal()
        )
    }
}

impl ClientKey {
    /// # Errors
    /// See [`KeyFileError`].
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let fields: ClientFields = read(text, "client's key", "name, public_key, secret_key and broker_key")?;
        check_key_name(&fields.name).map_err(KeyFileError::Field)?;
        Ok(Self {
            name: fields.name,
            public: public("public_key", &fields.public_key)?,
            secret: secret(&fields.secret_key)?,
            broker: public("broker_key", &fields.broker_key)?,
        })
    }

    pub fn to_text(&self) -> String {
        format!(
            "# The key with which {0} connects to the broker. Made by `ecs-cli keys`. SECRET: keep it with mode 0600.\n\
             # Use: ecs-cli --key THIS_FILE …, or export ECS_KEY=THIS_FILE, or `key = \"THIS_FILE\"` under [broker].\n\
             # Taken away by: ecs-cli keys revoke {0}\n\
             name = \"{0}\"\npublic_key = \"{1}\"\nsecret_key = \"{2}\"\n\n\
             # The broker's public key: no other broker is spoken to.\nbroker_key = \"{3}\"\n",
            self.name,
            self.public.as_str(),
            self.secret.reveal(),
            self.broker.as_str()
        )
    }
}

impl KeyHolder {
    /// # Errors
    /// See [`KeyFileError`].
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let fields: HolderFields = read(text, "client's entry", "name, public_key, role and names")?;
        check_key_name(&fields.name).map_err(KeyFileError::Field)?;
        let names = fields.names.iter().map(|name| name.parse()).collect::<Result<_, _>>();
        Ok(Self {
            name: fields.name,
            public: public("public_key", &fields.public_key)?,
            role: fields.role.parse().map_err(KeyFileError::Field)?,
            names: names.map_err(KeyFileError::Field)?,
        })
    }

    pub fn to_text(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| format!("\"{name}\"")).collect();
        format!(
            "# What {0} may do. Made by `ecs-cli keys`; the broker reads it within a second, and nothing here is\n\
             # secret. role: viewer (looks), operator (also acts), agent (also registers, as one of names and below).\n\
             # Without this file the key opens nothing any more: ecs-cli keys revoke {0}\n\
             name = \"{0}\"\npublic_key = \"{1}\"\nrole = \"{2}\"\nnames = [{3}]\n",
            self.name,
            self.public.as_str(),
            self.role.as_str(),
            names.join(", ")
        )
    }
}

fn read<T: for<'a> Deserialize<'a>>(text: &str, what: &'static str, fields: &'static str) -> Result<T, KeyFileError> {
    toml::from_str(text).map_err(|error| {
        // The error's own text may quote the line, and with it a secret.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        KeyFileError::Syntax { line: before.matches('\n').count() + 1, what, fields }
    })
}

fn public(field: &'static str, text: &str) -> Result<PublicKey, KeyFileError> {
    PublicKey::new(text).ok_or(KeyFileError::Key { field })
}

fn secret(text: &str) -> Result<SecretKey, KeyFileError> {
    SecretKey::new(text).ok_or(KeyFileError::Key { field: "secret_key" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
    const SECRET: &str = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6";

    fn client() -> ClientKey {
        let (public, secret) = (PublicKey::new(PUBLIC).expect("a key"), SecretKey::new(SECRET).expect("a key"));
        ClientKey { name: "anna".to_owned(), public: public.clone(), secret, broker: public }
    }

    #[test]
    fn each_file_reads_back_as_it_was_written() {
        let key = client();
        assert_eq!(ClientKey::parse(&key.to_text()), Ok(key.clone()));
        let broker = BrokerKey { public: key.public.clone(), secret: key.secret };
        assert_eq!(BrokerKey::parse(&broker.to_text()), Ok(broker));
        let names = ["x01/laser", "x01/stage*"].map(|name| name.parse().expect("a pattern")).to_vec();
        let holder = KeyHolder { name: "anna".to_owned(), public: key.public, role: Role::Agent, names };
        assert_eq!(KeyHolder::parse(&holder.to_text()), Ok(holder));
    }

    #[test]
    fn file_that_is_wrong_is_an_error_that_names_the_place_and_no_secret() {
        let good = client().to_text();
        let cases = [
            (good.replace("name =", "nmae ="), "line"),
            (good.replace(&format!("\"{SECRET}\""), SECRET), "line 6"),
            (good.replace("broker_key", "secret_key"), "line"),
            (good.replace(SECRET, &SECRET[1..]), "secret_key is not a key"),
            (good.replace("\"anna\"", "\"../anna\""), "no name of a key"),
            (String::new(), "name, public_key, secret_key and broker_key"),
        ];
        for (text, expected) in cases {
            let error = ClientKey::parse(&text).expect_err("it is wrong");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!format!("{error} {error:?}").contains(&SECRET[1..20]), "{error}");
        }
        assert!(!format!("{:?}", client()).contains(&SECRET[1..20]));
    }
}
