// Package canary makes secrets that are found again wherever they leak, in
// whatever encoding.
package canary

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Nest holds canaries. The zero value is empty and ready.
type Nest struct {
	mu    sync.Mutex // guards forms
	forms map[string][]string
}

// leastLeak is how many bytes of a canary count as a leak.
const leastLeak = 9

// New returns a new secret. It holds what is written otherwise in a URL, in
// JSON, in HTML and in a header, between two parts that are letters: half of a
// secret is a leak as well.
func (n *Nest) New(name string) string {
	head, tail := rand.Text(), rand.Text()
	n.Add(name, head)
	n.Add(name, tail)
	return head + `"+/=&<> \%é` + tail
}

// Add looks for a secret of letters and digits that somebody else has made.
func (n *Nest) Add(name, secret string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.forms == nil {
		n.forms = make(map[string][]string)
	}
	for _, part := range []string{secret[:leastLeak], secret[len(secret)-leastLeak:]} {
		n.forms[name] = append(n.forms[name], forms(part)...)
	}
}

// forms are the ways in which letters and digits may be written.
func forms(part string) []string {
	each := func(format string) string {
		var out strings.Builder
		for _, c := range []byte(part) {
			fmt.Fprintf(&out, format, c)
		}
		return strings.ToLower(out.String())
	}
	list := []string{strings.ToLower(part), hex.EncodeToString([]byte(part)), each("%%%02x"), each(`\u00%02x`), each(`\\u00%02x`), each("&#%d;"), each("&#x%x;")}
	for skip := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte("xxx"[:skip] + part))
		// The first and the last digits hold bits of what stands beside.
		list = append(list, encoded[(skip*8+5)/6:(skip+len(part))*8/6])
	}
	return list
}

// Find returns the names of the canaries of which a text holds any part, in any
// form, sorted.
func (n *Nest) Find(text string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	lower := strings.ToLower(text)
	var found []string
	for name, forms := range n.forms {
		if slices.ContainsFunc(forms, func(form string) bool {
			return strings.Contains(text, form) || strings.Contains(lower, form)
		}) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}
