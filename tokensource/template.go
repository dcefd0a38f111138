package tokensource

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// RefreshTokenPlaceholder stands in a refresh request for the current refresh
// token, where its name or its place is unusual.
const RefreshTokenPlaceholder = "refresh_token"

// Lookup returns the present value of a placeholder such as env.X or file.X,
// and false for a name that is none: its braces then stand for themselves.
type Lookup func(placeholder string) (value string, known bool)

// placeholder matches one, or a brace that means itself.
var placeholder = regexp.MustCompile(`\\\{|\{([A-Za-z_][^{}\r\n"]*)\}`)

// Placeholders returns the names in braces in text that could be meant as
// placeholders. A brace behind a backslash stands for itself.
func Placeholders(text string) []string {
	var names []string
	for _, m := range placeholder.FindAllStringSubmatch(text, -1) {
		if m[1] != "" {
			names = append(names, m[1])
		}
	}
	return names
}

// Piece is a part of a text: the name of a placeholder, or what stands for itself.
type Piece struct{ Name, Literal string }

// Pieces cuts a text at what could be meant as placeholders. A brace behind a
// backslash is a brace.
func Pieces(text string) []Piece {
	var pieces []Piece
	var literal strings.Builder
	end := func() {
		if literal.Len() > 0 {
			pieces = append(pieces, Piece{Literal: literal.String()})
			literal.Reset()
		}
	}
	for {
		m := placeholder.FindStringSubmatchIndex(text)
		if m == nil {
			literal.WriteString(text)
			end()
			return pieces
		}
		literal.WriteString(text[:m[0]])
		if m[2] < 0 {
			literal.WriteByte('{')
		} else {
			end()
			pieces = append(pieces, Piece{Name: text[m[2]:m[3]]})
		}
		text = text[m[1]:]
	}
}

// Resolve returns a secret that stands outside of a source with its placeholders
// replaced. Other braces stand for themselves.
func Resolve(option, template string, lookup Lookup) (string, error) {
	return (&resolver{lookup: lookup}).secret(option, template)
}

// HasOpenPlaceholder says whether a brace in text begins like a placeholder and
// does not end like one, as in {file./run/x.
func HasOpenPlaceholder(text string) bool {
	return openPlaceholder.MatchString(placeholder.ReplaceAllString(text, ""))
}

var openPlaceholder = regexp.MustCompile(`\{[a-z]+\.`)

// resolver expands the templates of one token request and remembers what it
// put in: all of it is treated as secret.
type resolver struct {
	lookup       Lookup
	refreshToken string
	accessToken  string
	resolved     []string

	// other returns what stands for the token of another source. It is asked where
	// takesOthers is set: elsewhere such braces stand for themselves.
	other       func(name string) (string, error)
	takesOthers bool
}

// text expands the placeholders of a template. The option is named in the
// error, the template is not: it may be a secret.
func (r *resolver) text(option, template string) (string, error) {
	return r.escaped(option, template, asItIs)
}

// escaped is text, with an escape for what the provider issued. What the
// operator configured is taken as it is.
func (r *resolver) escaped(option, template string, escape func(string) string) (string, error) {
	return r.expand(option, template, escape, func(string) string { return "{" })
}

// secret is text for an option in which braces that are no placeholder stand
// for themselves. So does a backslash, unless it is in front of a placeholder.
func (r *resolver) secret(option, template string) (string, error) {
	return r.expand(option, template, asItIs, func(rest string) string {
		m := placeholder.FindStringSubmatchIndex(rest)
		if m == nil || m[0] != 0 || m[2] < 0 || !r.knows(rest[m[2]:m[3]]) {
			return `\{`
		}
		return "{"
	})
}

func asItIs(s string) string { return s }

// expand replaces each placeholder, and each \{ by what brace returns for it;
// brace gets the text from that brace on.
func (r *resolver) expand(option, template string, escape, brace func(string) string) (string, error) {
	var out strings.Builder
	var failed error
	for {
		m := placeholder.FindStringSubmatchIndex(template)
		if m == nil {
			out.WriteString(template)
			return out.String(), failed
		}
		out.WriteString(template[:m[0]])
		if whole := template[m[0]:m[1]]; whole == `\{` {
			out.WriteString(brace(template[m[1]-1:]))
		} else {
			value, err := r.placed(option, whole, escape)
			if failed == nil {
				failed = err
			}
			out.WriteString(value)
		}
		template = template[m[1]:]
	}
}

// placed returns what goes in the place of a placeholder in braces.
func (r *resolver) placed(option, whole string, escape func(string) string) (string, error) {
	name := whole[1 : len(whole)-1]
	if source, ok := isOther(name); ok && r.takesOthers && r.other != nil {
		value, err := r.other(source)
		r.resolved = append(r.resolved, value)
		return escape(value), err
	}
	value, known := r.value(name)
	switch {
	case !known:
		return whole, nil
	case value == "":
		return "", fmt.Errorf("%s: the placeholder {%s} is empty or cannot be read", option, name)
	case name == RefreshTokenPlaceholder, name == AccessTokenPlaceholder:
		return escape(value), nil
	}
	return value, nil
}

// knows says whether a name is that of a placeholder.
func (r *resolver) knows(name string) bool {
	if _, ok := isOther(name); ok && r.takesOthers {
		return true
	}
	if r.lookup == nil {
		return false
	}
	_, known := r.lookup(name)
	return known
}

func (r *resolver) value(name string) (string, bool) {
	switch {
	case name == RefreshTokenPlaceholder && r.refreshToken != "":
		return r.refreshToken, true
	case name == AccessTokenPlaceholder && r.accessToken != "":
		return r.accessToken, true
	}
	if r.lookup == nil {
		return "", false
	}
	value, known := r.lookup(name)
	if known {
		r.resolved = append(r.resolved, value)
	}
	return value, known
}

// json expands placeholders inside the strings of a JSON value, so that a
// value cannot change the structure around it.
func (r *resolver) json(option string, raw json.RawMessage) (json.RawMessage, error) {
	v, err := decodeJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: the value is not JSON", option)
	}
	if v, err = r.tree(option, v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (r *resolver) tree(option string, v any) (any, error) {
	var err error
	switch v := v.(type) {
	case string:
		return r.text(option, v)
	case []any:
		for i := range v {
			if v[i], err = r.tree(option, v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) { // one order, so that a change can be told
			if v[k], err = r.tree(option, v[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// texts returns every text in a JSON value.
func texts(v any) []string {
	var all []string
	switch v := v.(type) {
	case string:
		all = append(all, v)
	case []any:
		for _, e := range v {
			all = append(all, texts(e)...)
		}
	case map[string]any:
		for _, e := range v {
			all = append(all, texts(e)...)
		}
	}
	return all
}

func decodeJSON(raw []byte) (any, error) {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("more than one JSON value")
	}
	return v, nil
}
