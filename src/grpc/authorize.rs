//! Who may call what.

use std::collections::BTreeMap;

use tonic::{Request, Status};

use super::accept::ConnectInfo;
use super::identity::{Caller, Role};
use super::status::{permission_denied, unauthenticated};

/// Lower roles than those of the certificates, by the client's name.
#[derive(Clone, Debug, Default)]
pub(super) struct Roles {
    lowered: BTreeMap<String, Role>,
}

impl Roles {
    pub(super) fn new(lowered: BTreeMap<String, Role>) -> Self {
        Self { lowered }
    }

    /// The caller's role, if it is at least `needed`.
    pub(super) fn require<T>(&self, request: &Request<T>, needed: Role) -> Result<Role, Status> {
        match request.extensions().get::<ConnectInfo>() {
            Some(info) => self.check(&info.caller, needed),
            None => Err(unauthenticated(needed, "the connection is unknown")),
        }
    }

    fn check(&self, caller: &Caller, needed: Role) -> Result<Role, Status> {
        let has = match caller {
            Caller::Plain { role } => *role,
            Caller::Client { name, role } => match self.lowered.get(name) {
                Some(lowered) => *role.min(lowered),
                None => *role,
            },
            Caller::Anonymous => {
                return Err(unauthenticated(needed, "no certificate was shown"));
            }
            Caller::Nobody { why } => return Err(unauthenticated(needed, why)),
        };
        match has >= needed {
            true => Ok(has),
            false => Err(permission_denied(needed, has)),
        }
    }
}

/// Who calls, for the log.
pub(super) fn name_of<T>(request: &Request<T>) -> String {
    let info = request.extensions().get::<ConnectInfo>();
    match info.map(|info| &*info.caller) {
        Some(Caller::Client { name, .. }) => name.clone(),
        Some(Caller::Plain { .. }) => "the plain listener".to_owned(),
        _ => "nobody".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn client(role: Role) -> Caller {
        Caller::Client {
            name: "shop".into(),
            role,
        }
    }

    fn code(roles: &Roles, caller: &Caller, needed: Role) -> Code {
        match roles.check(caller, needed) {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    }

    #[test]
    fn i2_each_role_reaches_its_own_calls_and_those_below() {
        let roles = Roles::default();
        let all = [Role::Reader, Role::Writer, Role::Operator];
        for has in all {
            for needed in all {
                let expected = match has >= needed {
                    true => Code::Ok,
                    false => Code::PermissionDenied,
                };
                assert_eq!(code(&roles, &client(has), needed), expected);
                assert_eq!(code(&roles, &Caller::Plain { role: has }, needed), expected);
            }
        }
    }

    #[test]
    fn i2_without_a_certificate_that_counts_nothing_is_allowed() {
        let roles = Roles::default();
        let nobody = Caller::Nobody {
            why: "other cluster".into(),
        };
        for caller in [Caller::Anonymous, nobody] {
            assert_eq!(code(&roles, &caller, Role::Reader), Code::Unauthenticated);
        }
    }

    #[test]
    fn settings_lower_a_role_and_never_raise_it() {
        let lower = |role| Roles::new(BTreeMap::from([("shop".to_owned(), role)]));
        let writer = client(Role::Writer);
        assert_eq!(
            code(&lower(Role::Reader), &writer, Role::Writer),
            Code::PermissionDenied
        );
        assert_eq!(
            code(&lower(Role::Operator), &writer, Role::Operator),
            Code::PermissionDenied
        );
    }
}
