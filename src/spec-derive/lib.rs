//! `#[derive(Config)]`: decoder, JSON Schema and key description from one struct or enum.
//!
//! The attributes are documented where the trait is, in `stillhouse_spec::config`.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, Fields, Ident, LitStr, Result, parse_macro_input, spanned::Spanned,
};

/// See `stillhouse_spec::config`.
#[proc_macro_derive(Config, attributes(config))]
pub fn derive_config(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

fn expand(input: &DeriveInput) -> Result<Tokens> {
    let (config, inline) = match &input.data {
        Data::Struct(data) => expand_struct(input, &data.fields)?,
        Data::Enum(data) => expand_enum(input, data)?,
        Data::Union(_) => return Err(Error::new(input.span(), "a config is a struct or an enum")),
    };
    let name = &input.ident;
    let (generics, type_generics, clause) = input.generics.split_for_impl();
    let inline = inline.map(|inline| {
        quote! {
            #[automatically_derived]
            impl #generics ::stillhouse_spec::config::Inline for #name #type_generics #clause { #inline }
        }
    });
    Ok(quote! {
        #[automatically_derived]
        impl #generics ::stillhouse_spec::Config for #name #type_generics #clause { #config }
        #inline
    })
}

/// What the attributes of a field say.
#[derive(Default)]
struct Options {
    name: Option<String>,
    default: Option<Tokens>,
    min: Option<Expr>,
    max: Option<Expr>,
    above: Option<Expr>,
    below: Option<Expr>,
    parts: Option<Vec<String>>,
    part_from: Option<Ident>,
    check: Option<Expr>,
    inline: bool,
    /// The attributes that are given, where they stand.
    given: Vec<(String, proc_macro2::Span)>,
}

impl Options {
    fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("config")) {
            attribute.parse_nested_meta(|meta| {
                let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
                options.given.push((name.clone(), meta.path.span()));
                match name.as_str() {
                    "name" => options.name = Some(meta.value()?.parse::<LitStr>()?.value()),
                    "default" => {
                        options.default = Some(match meta.value() {
                            Ok(value) => {
                                let expression: Expr = value.parse()?;
                                quote!(#expression)
                            }
                            Err(_) => quote!(::core::default::Default::default()),
                        });
                    }
                    "min" => options.min = Some(meta.value()?.parse()?),
                    "max" => options.max = Some(meta.value()?.parse()?),
                    "above" => options.above = Some(meta.value()?.parse()?),
                    "below" => options.below = Some(meta.value()?.parse()?),
                    "parts" => {
                        let list = meta.value()?.parse::<LitStr>()?.value();
                        options.parts = Some(list.split(',').map(|part| part.trim().to_owned()).collect());
                    }
                    "part_from" => options.part_from = Some(meta.value()?.parse()?),
                    "check" => options.check = Some(meta.value()?.parse()?),
                    "inline" => options.inline = true,
                    _ => return Err(meta.error("unknown config attribute")),
                }
                Ok(())
            })?;
        }
        Ok(options)
    }

    /// Refuses what has no meaning where it stands: an attribute that is passed over looks as if it held.
    fn only(self, known: &[&str], place: &str) -> Result<Self> {
        match self.given.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(self),
            Some((name, at)) => Err(Error::new(*at, format!("`{name}` means nothing on {place}"))),
        }
    }

    fn bounds(&self) -> Tokens {
        let bound = |bound: &Option<Expr>| match bound {
            Some(value) => quote!(Some((#value) as f64)),
            None => quote!(None),
        };
        let (min, max) = (bound(&self.min), bound(&self.max));
        let (above, below) = (bound(&self.above), bound(&self.below));
        quote!(::stillhouse_spec::config::Bounds { min: #min, max: #max, above: #above, below: #below })
    }
}

fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
        Some(text.value().trim().to_owned())
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// `FieldName` and `field_name` as files write them: `field-name`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (index, character) in name.trim_start_matches("r#").chars().enumerate() {
        if character.is_uppercase() && index > 0 {
            out.push('-');
        }
        out.extend(character.to_lowercase());
    }
    out.replace('_', "-")
}

/// The bodies of a type's `Config` and, for a struct, of its `Inline`.
type Bodies = (Tokens, Option<Tokens>);

fn expand_struct(input: &DeriveInput, fields: &Fields) -> Result<Bodies> {
    let Fields::Named(fields) = fields else {
        return Err(Error::new(input.span(), "a config struct has named fields"));
    };
    let whole = Options::read(&input.attrs)?.only(&["check"], "a struct")?;
    let about = docs(&input.attrs);
    let (mut names, mut decoded, mut schema, mut described, mut idents) = (vec![], vec![], vec![], vec![], vec![]);
    for field in &fields.named {
        let Some(ident) = &field.ident else { continue };
        let (options, kind, about) = (Options::read(&field.attrs)?, &field.ty, docs(&field.attrs));
        if options.inline {
            options.only(&["inline"], "a field that is inline")?;
            names.push(quote!(names.extend(<#kind as ::stillhouse_spec::config::Inline>::names());));
            decoded.push(quote!(let #ident = <#kind as ::stillhouse_spec::config::Inline>::take(fields, report);));
            schema.push(quote!(.inline::<#kind>()));
            described.push(quote!(members.extend(::stillhouse_spec::Config::describe(&self.#ident).into_members());));
            idents.push(ident);
            continue;
        }
        let known = ["name", "default", "min", "max", "above", "below", "parts", "part_from"];
        let options = options.only(&known, "a field")?;
        let name = options.name.clone().unwrap_or_else(|| kebab(&ident.to_string()));
        let bounds = options.bounds();
        let default = match &options.default {
            Some(value) => quote!(Some::<#kind>(#value)),
            None => quote!(None::<#kind>),
        };
        decoded.push(quote!(let #ident = fields.field::<#kind>(#name, &#bounds, #default, report);));
        schema.push(quote!(.field::<#kind>(#name, #about, #default.as_ref(), &#bounds)));
        let mut value = quote!(::stillhouse_spec::Config::describe(&self.#ident));
        let fixed = options.parts.iter().flatten().map(|part| quote!(#part));
        let chosen = options.part_from.iter().map(|other| quote!(self.#other.part()));
        let parts: Vec<Tokens> = fixed.chain(chosen).collect();
        if !parts.is_empty() {
            value = quote!(#value.with_parts(&[#(#parts),*]));
        }
        let skip_default = options.default.as_ref().map(|default| {
            quote!(let value = if value == ::stillhouse_spec::Config::describe(&{ let frozen: #kind = #default; frozen }) {
                ::stillhouse_spec::Described::Nothing
            } else {
                value
            };)
        });
        described.push(quote! {
            let value = #value;
            #skip_default
            if value != ::stillhouse_spec::Described::Nothing {
                members.insert(::std::string::String::from(#name), value);
            }
        });
        names.push(quote!(names.push(#name);));
        idents.push(ident);
    }
    let check = whole.check.map(|check| quote!(#check(&made, fields.node(), report);));
    let config = quote! {
        fn decode(node: &::stillhouse_spec::Node, report: &mut ::stillhouse_spec::Diagnostics) -> Option<Self> {
            let known = <Self as ::stillhouse_spec::config::Inline>::names();
            let mut fields = ::stillhouse_spec::config::Fields::open(node, &known, report)?;
            <Self as ::stillhouse_spec::config::Inline>::take(&mut fields, report)
        }

        fn schema() -> ::stillhouse_spec::config::Json {
            ::stillhouse_spec::config::StructSchema::new(#about) #(#schema)* .finish()
        }

        fn describe(&self) -> ::stillhouse_spec::Described {
            #[allow(unused_mut)]
            let mut members = ::std::collections::BTreeMap::new();
            #(#described)*
            ::stillhouse_spec::Described::Table(members)
        }
    };
    let inline = quote! {
        fn names() -> ::std::vec::Vec<&'static str> {
            #[allow(unused_mut)]
            let mut names = ::std::vec::Vec::new();
            #(#names)*
            names
        }

        #[allow(unused_variables)]
        fn take(
            fields: &mut ::stillhouse_spec::config::Fields<'_>,
            report: &mut ::stillhouse_spec::Diagnostics,
        ) -> Option<Self> {
            #(#decoded)*
            fields.whole()?;
            let made = Self { #(#idents: #idents?),* };
            #check
            Some(made)
        }
    };
    Ok((config, Some(inline)))
}

fn expand_enum(input: &DeriveInput, data: &syn::DataEnum) -> Result<Bodies> {
    Options::read(&input.attrs)?.only(&[], "an enum")?;
    let plain = data.variants.iter().all(|variant| matches!(variant.fields, Fields::Unit));
    let (mut names, mut decoded, mut schema, mut described) = (vec![], vec![], vec![], vec![]);
    for variant in &data.variants {
        let (ident, about) = (&variant.ident, docs(&variant.attrs));
        let options = Options::read(&variant.attrs)?.only(&["name"], "a choice")?;
        let name = options.name.unwrap_or_else(|| kebab(&ident.to_string()));
        match &variant.fields {
            Fields::Unit => {
                decoded.push(quote!(#name => {
                    ::stillhouse_spec::config::Fields::open(&body, &[], report)?.whole()?;
                    Some(Self::#ident)
                }));
                schema.push(quote!(::stillhouse_spec::config::choice_schema(#name, #about, None)));
                described.push(if plain {
                    quote!(Self::#ident => ::stillhouse_spec::Described::Value(::stillhouse_spec::Canonical::from(#name)))
                } else {
                    quote!(Self::#ident => ::stillhouse_spec::Described::Table(::std::collections::BTreeMap::from([(
                        ::std::string::String::from(#name),
                        ::stillhouse_spec::Described::Table(::std::collections::BTreeMap::new()),
                    )])))
                });
            }
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                let kind = &fields.unnamed[0].ty;
                decoded.push(
                    quote!(#name => <#kind as ::stillhouse_spec::Config>::decode(&body, report).map(Self::#ident)),
                );
                schema.push(quote!(::stillhouse_spec::config::choice_schema(
                    #name, #about, Some(<#kind as ::stillhouse_spec::Config>::schema())
                )));
                described.push(quote!(Self::#ident(value) => ::stillhouse_spec::Described::Table(
                    ::std::collections::BTreeMap::from([(
                        ::std::string::String::from(#name),
                        ::stillhouse_spec::Config::describe(value),
                    )])
                )));
            }
            _ => return Err(Error::new(variant.span(), "a choice has no options or one config of options")),
        }
        names.push(name);
    }
    let about = docs(&input.attrs);
    let config = quote! {
        fn decode(node: &::stillhouse_spec::Node, report: &mut ::stillhouse_spec::Diagnostics) -> Option<Self> {
            let (name, body) = ::stillhouse_spec::config::choice(node, &[#(#names),*], report)?;
            match name.as_str() { #(#decoded,)* _ => None }
        }

        fn schema() -> ::stillhouse_spec::config::Json {
            let choices: ::std::vec::Vec<::stillhouse_spec::config::Json> = [#(#schema),*].into_iter().flatten().collect();
            ::stillhouse_spec::config::choices_schema(#about, choices)
        }

        fn describe(&self) -> ::stillhouse_spec::Described {
            match self { #(#described),* }
        }
    };
    Ok((config, None))
}
