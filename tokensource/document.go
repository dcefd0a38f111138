package tokensource

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/url"
	"strconv"
	"strings"
)

// document is the body of an answer, in JSON's types. Numbers stay as they
// were written: a float64 would spoil a token that is one.
type document struct {
	root any
	top  fields // empty where root is no object
}

// parse reads body, which may be changed, or says why it cannot be read. With
// bare it is a token and nothing else, unless it is an object all the same.
func parse(body []byte, bare bool) (doc *document, reason string) {
	body = bytes.TrimPrefix(bytes.TrimSpace(body), []byte("\xef\xbb\xbf"))
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0:
		return nil, "the answer is empty"
	case body[0] == '{' || body[0] == '[' || bare && body[0] == '"':
		return parseObject(body)
	case body[0] == '<':
		return nil, markup(body)
	case bare && bytes.ContainsAny(body, " \t\r\n"):
		// A sentence in place of the token, with status 200.
		return nil, "the answer is a text, not a token"
	case bare:
		return &document{root: string(body)}, ""
	case !bytes.Contains(body, []byte("=")):
		return nil, "the answer is neither JSON nor a form"
	}
	return parseForm(string(body)), ""
}

func markup(body []byte) string {
	start := bytes.ToLower(body[:min(len(body), 200)])
	if bytes.Contains(start, []byte("<html")) || bytes.Contains(start, []byte("<!doctype html")) {
		return "the answer is HTML, not JSON"
	}
	return "the answer is XML, not JSON"
}

func parseObject(body []byte) (doc *document, reason string) {
	repair(body)
	root, err := parseJSON(body)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, "the answer broke off"
	case err != nil:
		return nil, "the answer is broken JSON"
	}
	top, _ := root.(map[string]any)
	return &document{root: root, top: newFields(top)}, ""
}

// parseJSON reads the first value and does not look at what follows: one
// semicolon behind a good answer is no reason to stand still.
func parseJSON(data []byte) (value any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	err = decoder.Decode(&value)
	return value, err
}

// parseForm keeps what is well-formed.
func parseForm(body string) *document {
	form, _ := url.ParseQuery(body)
	top := make(map[string]any, len(form))
	for name := range form {
		top[name] = form.Get(name)
	}
	return &document{root: top, top: newFields(top)}
}

// repair makes JSON of what is nearly JSON, in place and in one pass, and
// leaves strings alone: a comma before a closing bracket (a template's loop)
// becomes a blank, and Python's NaN and Infinity the empty string, which is
// neither a lifetime nor a token.
func repair(body []byte) {
	comma := -1 // where the last byte that matters is one
	for i := 0; i < len(body); i++ {
		switch c := body[i]; c {
		case ' ', '\t', '\r', '\n':
			continue
		case ',':
			comma = i
			continue
		case '}', ']':
			if comma >= 0 {
				body[comma] = ' '
			}
		case '"':
			i = stringEnd(body, i)
		case 'N', 'I', '-':
			i += emptyNonNumber(body[i:])
		}
		comma = -1
	}
}

// stringEnd returns where the string that begins at i has its closing quote.
func stringEnd(body []byte, i int) int {
	for i++; i < len(body) && body[i] != '"'; i++ {
		if body[i] == '\\' {
			i++
		}
	}
	return i
}

// emptyNonNumber returns how many bytes follow the first one of what it changed.
func emptyNonNumber(body []byte) int {
	for _, name := range []string{"NaN", "Infinity", "-Infinity"} {
		if bytes.HasPrefix(body, []byte(name)) {
			copy(body, `""`+strings.Repeat(" ", len(name)-2))
			return len(name) - 1
		}
	}
	return 0
}

// value returns what is at path, or without a path the field called name; nil
// where there is neither.
func (d *document) value(path, name string) any {
	switch path {
	case "":
		return d.top.get(name)
	case ".":
		return d.root
	}
	return lookup(d.root, path)
}

func lookup(value any, path string) any {
	step, rest, deeper := strings.Cut(path, ".")
	switch value := value.(type) {
	case map[string]any:
		if whole, ok := value[path]; ok {
			return whole
		}
		if deeper {
			return lookup(value[step], rest)
		}
	case []any:
		i, err := strconv.Atoi(step)
		if err != nil || i < 0 || i >= len(value) {
			return nil
		}
		if deeper {
			return lookup(value[i], rest)
		}
		return value[i]
	}
	return nil
}

// first takes a list for the first of it.
func first(value any) any {
	for {
		list, ok := value.([]any)
		if !ok || len(list) == 0 {
			return value
		}
		value = list[0]
	}
}

// text returns a string, a number as it was written, or a boolean; of anything
// else the empty string.
func text(value any) string {
	switch value := value.(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	case bool:
		return strconv.FormatBool(value)
	}
	return ""
}

// number accepts what a number looks like in any language that writes one.
func number(s string) (n float64, ok bool) {
	n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return n, err == nil && !math.IsNaN(n) && !math.IsInf(n, 0)
}

// fields are those of one object, found by name in any case and camelCase.
type fields struct {
	values map[string]any
	folded map[string]string // to the name as it is written
}

func newFields(values map[string]any) fields {
	f := fields{values: values, folded: make(map[string]string, len(values))}
	for name := range values {
		// The first in the alphabet, so that equal answers are read equally.
		key := foldName(name)
		if known, ok := f.folded[key]; !ok || name < known {
			f.folded[key] = name
		}
	}
	return f
}

func foldName(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "_", ""))
}

// get returns nil where there is no such field. The exact name wins.
func (f fields) get(name string) any {
	if value, ok := f.values[name]; ok {
		return value
	}
	if written, ok := f.folded[foldName(name)]; ok {
		return f.values[written]
	}
	return nil
}

func (f fields) text(name string) string { return text(f.get(name)) }

func (f fields) description() string {
	return cmp.Or(f.text("error_description"), f.text("message"), f.text("description"))
}

// code returns the first that is a name, else the first that is a number:
// Google has a code of 401 beside a status of "UNAUTHENTICATED".
func (f fields) code() string {
	var numeric string
	for _, name := range []string{"code", "error", "type", "status", "name"} {
		switch value := f.get(name).(type) {
		case string:
			if strings.TrimSpace(value) != "" {
				return value
			}
		case json.Number:
			numeric = cmp.Or(numeric, value.String())
		}
	}
	return numeric
}
