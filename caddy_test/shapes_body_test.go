package caddy_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// writtenBody is a body that is written out.
type writtenBody struct {
	contentType string

	// template is it as a user writes it, with parameters of these names.
	template func(names []string) string

	// read returns what it holds, as whoever knows the format reads it; nil where it
	// is not well-formed.
	read func(body string) map[string]string
}

// Each body holds by, which is no parameter, besides.
const bodyBesides = "by"

var writtenBodies = map[string]writtenBody{
	"body-json": {"application/login+json", func(names []string) string {
		return `{"login": [{` + joined(names, `"%s": "{%s}"`, ", ") + `, "by": "{env.SHAPE_USER}"}, true]}`
	}, func(body string) map[string]string {
		var all struct{ Login []json.RawMessage }
		var fields map[string]string
		if json.Unmarshal([]byte(body), &all) != nil || len(all.Login) != 2 || string(all.Login[1]) != "true" || json.Unmarshal(all.Login[0], &fields) != nil {
			return nil
		}
		return fields
	}},
	"body-xml": {"text/xml; charset=utf-8", func(names []string) string {
		return `<login v="1">` + joined(names, "<%s>{%s}</%[1]s>", "") + `<by>{env.SHAPE_USER}</by></login>`
	}, readXML},
	"body-form": {"application/x-www-form-urlencoded", func(names []string) string {
		return joined(names, "%s={%s}", "&") + "&by={env.SHAPE_USER}"
	}, func(body string) map[string]string {
		form, err := url.ParseQuery(body)
		fields := make(map[string]string)
		for name, values := range form {
			if fields[name] = values[0]; len(values) != 1 || err != nil {
				return nil
			}
		}
		return fields
	}},
	"body-text": {"text/plain", func(names []string) string {
		return joined(names, "%s={%s}", "¦") + "¦by={env.SHAPE_USER}"
	}, func(body string) map[string]string {
		fields := make(map[string]string)
		for part := range strings.SplitSeq(body, "¦") {
			name, value, _ := strings.Cut(part, "=")
			fields[name] = value
		}
		return fields
	}},
}

func joined(names []string, format, separator string) string {
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf(format, name, name))
	}
	return strings.Join(parts, separator)
}

// readXML reads one element that has others in it, with texts.
func readXML(body string) map[string]string {
	decoder := xml.NewDecoder(strings.NewReader(body))
	fields := make(map[string]string)
	var open []string
	for {
		token, err := decoder.Token()
		if err == io.EOF && len(open) == 0 {
			return fields
		}
		switch token := token.(type) {
		case xml.StartElement:
			open = append(open, token.Name.Local)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) != 2 || open[0] != "login" {
				return nil
			}
			fields[open[1]] += string(token)
		default:
			return nil
		}
	}
}

// bodyLine is the option that writes the body of a request out, in some format.
func (w *wanted) bodyLine(kind string) string {
	names := slices.Sorted(maps.Keys(w.params))
	for name := range w.signed {
		names = append(names, name)
	}
	slices.Sort(names)
	b := writtenBodies[kind]
	return fmt.Sprintf("body %q `%s`", b.contentType, b.template(names))
}

// bodyDiffers says whether a body that is written out holds anything else.
func (w *wanted) bodyDiffers(body string) string {
	want := map[string]string{bodyBesides: shapeUser}
	for name, values := range w.params {
		want[name] = values[0]
	}
	if got := writtenBodies[w.encoding].read(body); !maps.Equal(got, want) {
		return fmt.Sprintf("the body is %q, and holds %q, want %q", body, got, want)
	}
	return ""
}
