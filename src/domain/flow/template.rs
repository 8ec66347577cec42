//! Templates of command flows: `{parameter}` stands for a value.

use serde_json::Value;

use super::parameters::Parameters;

/// `template` with each `{name}` replaced by the argument's value; `{{` and `}}` stand for braces.
///
/// # Errors
/// The name that is not a parameter, or the brace that does not close.
pub fn fill(template: &str, parameters: &Parameters) -> Result<String, String> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        filled.push_str(&rest[..at]);
        let brace = &rest[at..];
        if brace.starts_with("{{") || brace.starts_with("}}") {
            filled.push_str(&brace[..1]);
            rest = &brace[2..];
            continue;
        }
        let name_end = brace.starts_with('{').then(|| brace.find('}')).flatten();
        let name = name_end.map(|end| &brace[1..end]).ok_or_else(|| {
            format!("{template:?} has a brace without its other one (a plain brace is written twice)")
        })?;
        match parameters.0.get(name) {
            Some(Value::String(text)) => filled.push_str(text),
            Some(value) => filled.push_str(&value.to_string()),
            None => return Err(format!("{template:?} names {name:?}, which is no parameter")),
        }
        rest = &brace[name.len() + 2..];
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_are_filled_without_a_shell() {
        let parameters = json!({"video-id": "a b; rm {x}", "version": 3});
        let parameters = Parameters(parameters.as_object().expect("an object").clone());
        let fill = |template| fill(template, &parameters);
        assert_eq!(
            fill("--id={video-id} {version} {{literal}}"),
            Ok("--id=a b; rm {x} 3 {literal}".to_owned())
        );
        assert!(fill("{nope}").is_err());
        assert!(fill("{video-id").is_err());
        assert!(fill("}").is_err());
    }
}
