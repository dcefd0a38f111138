package tokensource

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// expansion resolves one template after the other and keeps the first error.
type expansion struct {
	*resolver
	secrets []string
	err     error
}

func (e *expansion) text(option, template string) string {
	text, err := e.resolver.text(option, template)
	if e.err == nil {
		e.err = err
	}
	return text
}

// address resolves the URL of an endpoint. What stands for a part of its host can be
// nothing else: what a file holds must not change where a secret goes.
func (e *expansion) address(option, template string) string {
	e.checkHost(option, template)
	return e.text(option, template)
}

// hostPart is what can stand in a URL's host.
var hostPart = regexp.MustCompile(`^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

func (e *expansion) checkHost(option, template string) {
	_, rest, whole := strings.Cut(template, "://")
	if !whole || strings.ContainsAny(template[:len(template)-len(rest)], "{") {
		return // its beginning is a placeholder as well
	}
	for _, name := range Placeholders(withoutPath(rest)) {
		if value, known := e.value(name); known && value != "" && !hostPart.MatchString(value) && e.err == nil {
			e.err = fmt.Errorf("%s: what the placeholder {%s} stands for cannot be in a host's name: letters, digits, dots and - can, and no https:// and no path", option, name)
		}
	}
}

// withoutPath cuts a template where the path or the query begins: at the first of
// their signs that stands in no placeholder.
func withoutPath(template string) string {
	depth := 0
	for i, c := range template {
		switch {
		case c == '{':
			depth++
		case c == '}':
			depth--
		case (c == '/' || c == '?') && depth == 0:
			return template[:i]
		}
	}
	return template
}

func (e *expansion) secret(option, template string) string {
	text, err := e.resolver.secret(option, template)
	if e.err == nil {
		e.err = err
	}
	e.secrets = append(e.secrets, text)
	return text
}

// key resolves a private key, and returns what stood in the place of its
// placeholders. Of its text only that is a secret which is the key: the names around
// it are what an error is about.
func (e *expansion) key(template string) (text string, resolved []string) {
	before := len(e.resolved)
	text, err := e.resolver.secret("private_key", template)
	if e.err == nil {
		e.err = err
	}
	e.secrets = append(e.secrets, keySecrets(text)...)
	return text, e.resolved[before:]
}

// secretName is what names of parameters look like that hold a secret.
var secretName = regexp.MustCompile(`(?i)pass|secret|token|key|pin$|code|assertion|signature|credential|auth`)

// IsSecretName says whether a parameter or a header field of that name is
// taken for a secret.
func IsSecretName(name string) bool { return secretName.MatchString(name) }

// params resolves a list of parameters. Which of them are secret only their
// names can tell; in a login that is not OAuth, any may be.
func (e *expansion) params(list []Param, all bool) []Param {
	e.takesOthers = true
	defer func() { e.takesOthers = false }()
	out := make([]Param, len(list))
	for i, p := range list {
		option := "param " + p.Name
		if p.JSON != nil {
			raw, err := e.json(option, p.JSON)
			if e.err == nil {
				e.err = err
			}
			p.JSON = raw
			if v, err := decodeJSON(raw); err == nil {
				e.secrets = append(e.secrets, texts(v)...)
			}
		}
		p.Value = e.text(option, p.Value)
		if all || IsSecretName(p.Name) {
			e.secrets = append(e.secrets, p.Value)
		}
		out[i] = p
	}
	return out
}

func (e *expansion) request(r Request, all bool) Request {
	e.checkHost("refresh_request url", r.URL)
	address, err := e.escaped("refresh_request url", r.URL, queryEscape)
	if e.err == nil {
		e.err = err
	}
	r.URL = address
	e.takesOthers = true
	header := make([]Header, len(r.Header))
	for i, h := range r.Header {
		value := e.text("header "+h.Name, h.Value)
		e.secrets = append(e.secrets, value)
		if _, credentials, ok := strings.Cut(value, " "); ok { // behind a scheme
			e.secrets = append(e.secrets, credentials)
		}
		if e.err == nil && !httpguts.ValidHeaderFieldValue(value) {
			e.err = fmt.Errorf("header %s: the value holds control characters", h.Name)
		}
		header[i] = Header{Name: h.Name, Value: value}
	}
	r.Header = header
	e.takesOthers = false
	r.Params = e.params(r.Params, all)
	r.Body = e.body(r.Body)
	return r
}

// query notes the secrets that stand in the query of a URL.
func (e *expansion) query(text string) {
	u, err := url.Parse(text)
	if err != nil {
		return
	}
	for name, values := range u.Query() {
		if IsSecretName(name) {
			e.secrets = append(e.secrets, values...)
		}
	}
}
