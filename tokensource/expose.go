package tokensource

import (
	"encoding/json"
	"maps"
	"strings"
	"unicode/utf8"
)

// maxExposed is the longest value that is exposed, in bytes: it may stand in each
// request to an upstream.
const maxExposed = 4 << 10

// exposed returns the values of an answer that are asked for and can be had.
func (f *Response) exposed(doc *document) map[string]string {
	found := make(map[string]string, len(f.Expose))
	for name, path := range f.Expose {
		switch value := lookup(doc.root, path).(type) {
		case string, json.Number:
			found[name] = text(value)
		}
	}
	return showable(found)
}

// showable leaves out what cannot stand in a header field. Nil is none.
func showable(values map[string]string) map[string]string {
	maps.DeleteFunc(values, func(_, value string) bool {
		return strings.TrimSpace(value) == "" || len(value) > maxExposed || !utf8.ValidString(value) || strings.ContainsFunc(value, isUnshowable)
	})
	if len(values) == 0 {
		return nil
	}
	return values
}

// keepExposed takes over what the answer to a refresh does not repeat. A value
// that was found elsewhere is another one.
func (t *Token) keepExposed(previous *Token) {
	for name, value := range previous.Exposed {
		if _, there := t.Exposed[name]; there || t.exposes[name] == "" || t.exposes[name] != previous.exposes[name] {
			continue
		}
		if t.Exposed == nil {
			t.Exposed = make(map[string]string)
		}
		t.Exposed[name] = value
	}
}

// dropTokens takes tokens and passwords out of what is exposed: it may stand where
// nobody looks for secrets.
func (t *Token) dropTokens(set *settings) {
	if len(t.Exposed) == 0 {
		return
	}
	known := newScrubber(t.AccessToken, t.RefreshToken, set.refreshToken, set.clientSecret, set.password)
	maps.DeleteFunc(t.Exposed, func(_, value string) bool { return known.scrub(value) != value })
}

// exposesAllOf says whether a token's answer was looked through for all that this
// source exposes, whether it was there or not.
func (s *Source) exposesAllOf(t *Token) bool {
	for name, path := range s.config.Response.Expose {
		if t.exposes[name] != path {
			return false
		}
	}
	return true
}
