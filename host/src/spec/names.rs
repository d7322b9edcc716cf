//! Names that Kubernetes and Dynamo accept.

/// Longest that DGD name and component name may be together, in characters: Grove, which starts the pods, needs the
/// rest of the 63 of a pod name (Dynamo issues 8480 and 8566).
pub const MAX_POD_NAME: usize = 45;

/// The longest name of a component that a generated DGD always has. The finished DGD is checked again with all of its
/// components, among them those that the user's overrides add.
pub const LONGEST_COMPONENT: &str = "Frontend";

/// Why `name` is no DNS-1123 label; `None` if it is one.
pub(super) fn label_problem(name: &str) -> Option<&'static str> {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > 63 {
        Some("it has more than 63 characters")
    } else if !name.chars().all(|c| alphanumeric(c) || c == '-') {
        Some("only lower-case letters, digits and `-` are allowed")
    } else if !name.starts_with(alphanumeric) || !name.ends_with(alphanumeric) {
        Some("it must begin and end with a letter or digit")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for good in ["a", "0", "a-b", "a1-2b", &"a".repeat(63)] {
            assert_eq!(label_problem(good), None, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert!(label_problem(bad).is_some(), "{bad}");
        }
    }
}
