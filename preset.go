package injecttoken

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// preset is an entry of the built-in list: what a provider's documentation says,
// in the options of a source.
type preset struct {
	name     string
	title    string
	category string

	documentation []string
	values        []presetValue
	notes         []string

	source  *Source
	written []string // the lines of it

	also    []string   // further grants for which the same words hold
	inject  *Transport // where its API takes the token, where that is not usual
	api     string     // the address of its API
	example []string   // lines that a source of this provider needs as well
}

// presetValue is what an entry leaves open: {NAME} in its texts.
type presetValue struct{ name, text, fallback string }

// example is one that could stand there. The last words of the text are one,
// where there is no default.
func (v presetValue) example() string {
	if v.fallback != "" {
		return v.fallback
	}
	_, example, _ := strings.Cut(v.text, "such as ")
	return example
}

// presetCategories are the categories in the order in which they are listed.
var presetCategories = []struct{ name, title string }{
	{"crm", "Customers and sales"},
	{"projects", "Projects and office"},
	{"mail", "Mail and calendars"},
	{"storage", "Files and storage"},
	{"payment", "Payment"},
	{"accounting", "Accounting"},
	{"developer", "Developer tools"},
	{"hr", "People and pay"},
	{"social", "Advertising, social networks and media"},
	{"support", "Support"},
	{"ecommerce", "Shops and logistics"},
	{"messaging", "Messages and meetings"},
	{"cloud", "Clouds and their APIs"},
	{"identity", "Identity providers, by tenant"},
}

//go:embed providers.caddyfile
var presetData []byte

// presets returns the built-in list by name. It is read when it is first needed,
// by the parser that reads what users write.
var presets = sync.OnceValue(func() map[string]*preset {
	list, err := parsePresets(presetData)
	if err != nil {
		panic(err) // a test reads it first
	}
	return list
})

func presetNames() []string { return sortedNames(presets()) }

func parsePresets(data []byte) (map[string]*preset, error) {
	tokens, err := caddyfile.Tokenize(data, "providers.caddyfile")
	if err != nil {
		return nil, err
	}
	list := make(map[string]*preset)
	lines := strings.Split(string(data), "\n")
	for d := caddyfile.NewDispenser(tokens); d.Next(); {
		p := &preset{name: d.Val()}
		if _, twice := list[p.name]; twice {
			return nil, d.Errf("%s stands here twice", p.name)
		}
		r := newOptionReader(d, p.name)
		if err := readBlock(r, presetOptions(lines), p); err != nil {
			return nil, err
		}
		list[p.name] = p
	}
	return list, nil
}

// presetOptions are the options of an entry of the list, which stands in lines.
func presetOptions(lines []string) map[string]blockOption[preset] {
	return map[string]blockOption[preset]{
		"title":         field(func(p *preset) *string { return &p.title }),
		"category":      field(func(p *preset) *string { return &p.category }),
		"api":           field(func(p *preset) *string { return &p.api }),
		"documentation": words(func(p *preset) *[]string { return &p.documentation }),
		"note":          words(func(p *preset) *[]string { return &p.notes }),
		"also":          words(func(p *preset) *[]string { return &p.also }),
		"value":         {repeats: true, set: parsePresetValue},
		"inject":        {set: parsePresetInject},
		"source": {set: func(r *optionReader, p *preset, _ []string) (err error) {
			p.source = new(Source)
			p.written, err = r.source(p.source, lines)
			return err
		}},
		"example": {set: func(r *optionReader, p *preset, _ []string) (err error) {
			p.example, err = r.source(new(Source), lines)
			return err
		}},
	}
}

// words is an option of any number of texts, that may repeat.
func words[T any](of func(*T) *[]string) blockOption[T] {
	return blockOption[T]{repeats: true, set: func(r *optionReader, into *T, args []string) error {
		if len(args) == 0 {
			return r.errf("the argument is missing")
		}
		*of(into) = append(*of(into), args...)
		return nil
	}}
}

// source reads a block of a source's options, and returns its lines as well.
func (r *optionReader) source(into *Source, lines []string) (written []string, err error) {
	begin := r.Line()
	options := maps.Clone(sourceOptions)
	delete(options, "provider") // an entry is made of no other
	err = r.inner(func(inner *optionReader) error { return inner.options(options, into) })
	if err != nil {
		return nil, err
	}
	for _, line := range lines[begin : r.Line()-1] {
		written = append(written, strings.TrimPrefix(line, "\t\t"))
	}
	return written, nil
}

func parsePresetValue(r *optionReader, p *preset, args []string) error {
	if len(args) != 2 && len(args) != 3 {
		return r.errf("write value NAME TEXT [DEFAULT]")
	}
	r.named(args[0])
	p.values = append(p.values, presetValue{name: args[0], text: args[1], fallback: strings.Join(args[2:], "")})
	return nil
}

func parsePresetInject(r *optionReader, p *preset, _ []string) error {
	p.inject = new(Transport)
	return r.inner(func(inner *optionReader) error { return readBlock(inner, placeOptions(), p.inject) })
}

// value returns what the entry leaves open under a name.
func (p *preset) value(name string) (presetValue, bool) {
	i := slices.IndexFunc(p.values, func(v presetValue) bool { return v.name == name })
	if i < 0 {
		return presetValue{}, false
	}
	return p.values[i], true
}

func (p *preset) valueNames() []string {
	var names []string
	for _, v := range p.values {
		names = append(names, v.name)
	}
	return names
}

// valuesWith returns a value for everything that the entry leaves open: the one
// that is written, or the default, or "" where it is missing.
func (p *preset) valuesWith(written map[string]string) map[string]string {
	out := make(map[string]string)
	for _, v := range p.values {
		out[v.name] = v.fallback
		if value, ok := written[v.name]; ok {
			out[v.name] = value
		}
	}
	return out
}

// withExamples returns a text of the entry with an example in each open place.
func (p *preset) withExamples(text string) string {
	for _, v := range p.values {
		text = strings.ReplaceAll(text, "{"+v.name+"}", v.example())
	}
	return text
}

// grants are those for which the entry's words hold; the first is its own.
func (p *preset) grants() []string { return append([]string{p.source.Grant}, p.also...) }

// categoryTitle is how a category is called in the list.
func categoryTitle(name string) string {
	for _, c := range presetCategories {
		if c.name == name {
			return c.title
		}
	}
	return fmt.Sprint("(", name, ")")
}
