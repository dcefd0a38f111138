package injecttoken

import (
	"encoding/json"
	"slices"
	"strings"
)

func (r *optionReader) param(list *[]Param, args []string) error {
	omit := len(args) > 0 && strings.HasPrefix(args[0], "-")
	switch {
	case omit && len(args) == 1 && len(args[0]) > 1:
		r.named(args[0][1:])
		*list = append(*list, Param{Name: args[0][1:], Omit: true})
	case !omit && len(args) == 2 && args[0] != "":
		r.named(args[0])
		*list = append(*list, Param{Name: args[0], Value: args[1]})
	default:
		return r.errf("write param NAME VALUE, or param -NAME to leave a standard one out")
	}
	return nil
}

func parseParamJSON(r *optionReader, s *Source, args []string) error {
	if len(args) != 2 || args[0] == "" {
		return r.errf("write param_json NAME JSON, the JSON in backquotes")
	}
	if !json.Valid([]byte(args[1])) {
		return r.errf("the value is not JSON; write param_json NAME JSON, the JSON in backquotes")
	}
	r.named(args[0])
	s.Params = append(s.Params, Param{Name: args[0], JSON: json.RawMessage(args[1])})
	return nil
}

func (r *optionReader) request(into **TokenRequest, args []string) error {
	request := new(TokenRequest)
	usage := "write " + r.current + " [GET|POST] [form|query|json]"
	for i, arg := range args {
		switch {
		case i == 0 && slices.Contains([]string{"GET", "POST"}, strings.ToUpper(arg)):
			request.Method = strings.ToUpper(arg)
		case i == len(args)-1 && slices.Contains([]string{"form", "query", "json"}, arg):
			request.Encoding = arg
		default:
			return r.errf("%s", usage)
		}
	}
	options := map[string]blockOption[TokenRequest]{
		"header": {repeats: true, set: parseRequestHeader},
		"param":  {repeats: true, set: func(r *optionReader, t *TokenRequest, args []string) error { return r.param(&t.Params, args) }},
	}
	options["body"] = blockOption[TokenRequest]{set: parseBody}
	if r.current == "refresh_request" {
		options["url"] = field(func(t *TokenRequest) *string { return &t.URL })
	}
	*into = request
	return r.inner(func(inner *optionReader) error { return readBlock(inner, options, request) })
}

func parseBody(r *optionReader, t *TokenRequest, args []string) error {
	if len(args) != 2 {
		return r.errf("write body CONTENT-TYPE TEMPLATE, the template in backquotes")
	}
	t.Body = &RequestBody{ContentType: args[0], Template: args[1]}
	return nil
}

// inner reads a block within the block.
func (r *optionReader) inner(read func(*optionReader) error) error {
	inner := newOptionReader(r.Dispenser, r.current)
	inner.current = r.current
	err := read(inner)
	for option, place := range inner.places {
		r.places[inner.block+" "+option] = place
	}
	return err
}

func parseRequestHeader(r *optionReader, t *TokenRequest, args []string) error {
	if len(args) != 2 {
		return r.errf("write header NAME VALUE")
	}
	r.named(args[0])
	t.Headers = append(t.Headers, RequestHeader{Name: args[0], Value: args[1]})
	return nil
}

func parseTokenResponse(r *optionReader, s *Source, args []string) error {
	if len(args) > 0 {
		return r.errf("this takes a block in braces and no argument")
	}
	s.TokenResponse = new(TokenResponse)
	err := r.inner(func(inner *optionReader) error { return readBlock(inner, responseOptions, s.TokenResponse) })
	if err == nil && equalsZero(s.TokenResponse) {
		return r.errf("this is empty; write a block with the paths that differ")
	}
	return err
}

func equalsZero(t *TokenResponse) bool {
	return t.AccessToken == "" && t.RefreshToken == "" && t.ExpiresIn == "" && t.ExpiresAt == "" && t.Error == "" && t.Expose == nil
}

var responseOptions = map[string]blockOption[TokenResponse]{
	"access_token":  field(func(t *TokenResponse) *string { return &t.AccessToken }),
	"refresh_token": field(func(t *TokenResponse) *string { return &t.RefreshToken }),
	"expires_in": {set: func(r *optionReader, t *TokenResponse, args []string) error {
		if len(args) != 1 && len(args) != 2 {
			return r.errf("write expires_in PATH [s|ms|m|h]")
		}
		if len(args) == 2 {
			t.ExpiresInUnit = args[1]
		}
		return r.text(&t.ExpiresIn, args[:1])
	}},
	"expires_at": {set: func(r *optionReader, t *TokenResponse, args []string) error {
		if len(args) != 1 && len(args) != 2 {
			return r.errf("write expires_at PATH [unix|unix_ms|rfc3339]")
		}
		if len(args) == 2 {
			t.ExpiresAtFormat = args[1]
		}
		return r.text(&t.ExpiresAt, args[:1])
	}},
	"error": {set: func(r *optionReader, t *TokenResponse, args []string) error {
		if len(args) == 0 {
			return r.errf("write error PATH [OK-VALUE…]")
		}
		t.ErrorOK = args[1:]
		return r.text(&t.Error, args[:1])
	}},
	"expose": {repeats: true, set: func(r *optionReader, t *TokenResponse, args []string) error {
		if len(args) != 2 {
			return r.errf("write expose NAME PATH")
		}
		if t.Expose[args[0]] != "" {
			return r.errf("%s is exposed twice", args[0])
		}
		if t.Expose == nil {
			t.Expose = make(map[string]string)
		}
		r.named(args[0])
		t.Expose[args[0]] = args[1]
		return nil
	}},
}
