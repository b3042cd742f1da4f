//! Writes GGUF files for tests: exactly what it is told, right or wrong. Other crates' tests include this file, so it
//! uses nothing of this one.

/// A GGUF file in the making.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    settings: Vec<(String, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn list(kind: u32, count: usize, elements: Vec<u8>) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), &elements].concat()
}

impl GgufWriter {
    /// A setting as bytes.
    pub fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), [&kind.to_le_bytes()[..], value].concat()));
        self
    }

    /// Without a setting.
    pub fn without(mut self, key: &str) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, 7, &[u8::from(value)])
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &string(value))
    }

    pub fn texts<T: AsRef<str>>(self, key: &str, values: &[T]) -> Self {
        let elements = values.iter().flat_map(|value| string(value.as_ref())).collect();
        self.raw(key, 9, &list(8, values.len(), elements))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        let elements = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.raw(key, 9, &list(5, values.len(), elements))
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        let elements = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.raw(key, 9, &list(6, values.len(), elements))
    }

    /// A tensor of a type's number; its shape as Hugging Face writes it, the slowest dimension first.
    pub fn tensor(mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) -> Self {
        self.tensors.retain(|(known, ..)| known != name);
        let lengths = shape.iter().rev().map(|length| *length as u64).collect();
        self.tensors.push((name.to_owned(), lengths, kind, bytes));
        self
    }

    /// A tensor of f32.
    pub fn floats(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.tensor(name, shape, 0, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.settings.len() as u64).to_le_bytes());
        for (key, value) in &self.settings {
            file.extend(string(key));
            file.extend(value);
        }
        let mut data = Vec::new();
        for (name, lengths, kind, bytes) in &self.tensors {
            file.extend(string(name));
            file.extend((lengths.len() as u32).to_le_bytes());
            lengths.iter().for_each(|length| file.extend(length.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }

    /// Writes the file.
    pub fn write(&self, path: &std::path::Path) {
        fs_err::write(path, self.bytes()).unwrap();
    }
}
