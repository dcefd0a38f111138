package injecttoken

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// tree is a source or a transport as JSON, in which two can be laid over each
// other whatever options there are.
type tree map[string]any

func treeOf(v any) tree {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was read from JSON, or written by us
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var out map[string]any
	if err := decoder.Decode(&out); err != nil {
		panic(err)
	}
	return trees(out).(tree)
}

// trees makes every object one of our own type.
func trees(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(tree, len(v))
		for name, value := range v {
			out[name] = trees(value)
		}
		return out
	case []any:
		for i := range v {
			v[i] = trees(v[i])
		}
	}
	return v
}

func (t tree) into(v any) {
	text, err := json.Marshal(t)
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		panic(err)
	}
}

// drop takes an option out, with its further arguments.
func (t tree) drop(option string) {
	for name := range t {
		if isOf(name, option) {
			delete(t, name)
		}
	}
}

// has says whether an option is written.
func (t tree) has(option string) bool {
	for name := range t {
		if isOf(name, option) {
			return true
		}
	}
	return false
}

// isOf says whether a field is that of an option, in the singular or the plural,
// or of its further arguments.
func isOf(field, option string) bool {
	return field == option || field == option+"s" || isArgument(field, option)
}

// isArgument says whether a field holds a further argument of an option:
// client_auth_raw of client_auth. Who writes an option writes all of it.
func isArgument(field, option string) bool {
	return strings.HasPrefix(field, option+"_") || option == "code_field" && field == "code_separator"
}

// shape are the fields of which one stands in place of the others.
var shape = []string{"method", "encoding", "body"}

// filling lays the words of a user over those of a provider's entry.
type filling struct {
	values  map[string]string // of the entry's placeholders; those that are missing have none
	missing []string          // those that were needed
}

// objects returns what the user wrote, and else what the entry says. Names that
// are the user's own to choose are no options.
func (f *filling) objects(entry, own tree, free bool) tree {
	out := maps.Clone(own)
	for _, name := range sortedNames(entry) {
		written, both := own[name]
		if !both && (free || !own.replaces(name)) {
			out[name] = f.replaced(entry[name])
			continue
		}
		switch said := entry[name].(type) {
		case tree:
			if object, ok := written.(tree); ok {
				out[name] = f.objects(said, object, name == "expose")
			}
		case []any:
			if list, ok := written.([]any); ok && areNamed(said) && areNamed(list) {
				out[name] = f.lists(said, list, name == "headers")
			}
		}
	}
	return out
}

// replaces says whether something that is written goes in the place of a field
// that is not.
func (t tree) replaces(field string) bool {
	for name := range t {
		if isArgument(field, name) || slices.Contains(shape, field) && slices.Contains(shape, name) {
			return true
		}
	}
	return false
}

// lists returns both lists, without those of the entry's that have a name which
// the user wrote as well.
func (f *filling) lists(entry, own []any, fold bool) []any {
	var out []any
	for _, said := range entry {
		if !slices.ContainsFunc(own, func(written any) bool { return sameName(said, written, fold) }) {
			out = append(out, f.replaced(said))
		}
	}
	return append(out, own...)
}

func areNamed(list []any) bool {
	return !slices.ContainsFunc(list, func(v any) bool { _, ok := nameOf(v); return !ok })
}

func nameOf(v any) (string, bool) {
	object, _ := v.(tree)
	name, ok := object["name"].(string)
	return name, ok
}

func sameName(a, b any, fold bool) bool {
	first, _ := nameOf(a)
	second, _ := nameOf(b)
	return first == second || fold && strings.EqualFold(first, second)
}

// replaced returns words of the entry with the values in their places.
func (f *filling) replaced(v any) any {
	switch v := v.(type) {
	case tree:
		out := make(tree, len(v))
		for name, value := range v {
			out[name] = f.replaced(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = f.replaced(v[i])
		}
		return out
	case string:
		return f.text(v)
	}
	return v
}

func (f *filling) text(text string) string {
	var pairs []string
	for name, value := range f.values {
		placeholder := "{" + name + "}"
		if value == "" && strings.Contains(text, placeholder) {
			f.missing = append(f.missing, name)
		}
		pairs = append(pairs, placeholder, value)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func sortedNames[V any](of map[string]V) []string { return slices.Sorted(maps.Keys(of)) }
