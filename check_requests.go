package injecttoken

import (
	"encoding/json"
	"net/textproto"
	"slices"

	"golang.org/x/net/http/httpguts"

	"github.com/caddytoken/inject-token/tokensource"
)

func (s *Source) checkRequests() *mistake {
	token := s.TokenRequest
	if token == nil {
		token = new(TokenRequest)
	}
	encoding, m := token.check("token_request", new(TokenRequest))
	if m != nil {
		return m
	}
	if grant, _ := tokensource.GrantByName(s.Grant); grant.BeginsWithRefreshToken() && len(token.Params) > 0 {
		return wrong("token_request param "+token.Params[0].Name, "the grant %s makes refresh requests alone; write param, or param in refresh_request", s.Grant)
	}
	encodings := []string{encoding}
	if s.RefreshRequest != nil {
		if encoding, m = s.RefreshRequest.check("refresh_request", token); m != nil {
			return m
		}
		encodings = append(encodings, encoding)
		if s.Grant == "custom" && !s.RefreshRequest.places(tokensource.RefreshTokenPlaceholder) && !s.RefreshRequest.places(tokensource.AccessTokenPlaceholder) {
			return wrong("refresh_request", "the grant custom sends nothing by itself, so {refresh_token} or {access_token} must stand somewhere in here")
		}
	}
	for _, encoding := range encodings {
		if m := checkParams("param", s.Params, encoding); m != nil {
			return m
		}
	}
	return s.checkBasicTwice()
}

// checkBasicTwice refuses an Authorization that would take the place of the
// client's own.
func (s *Source) checkBasicTwice() *mistake {
	if s.clientAuth() != "client_secret_basic" {
		return nil
	}
	for _, request := range []struct {
		option string
		*TokenRequest
	}{{"token_request", s.TokenRequest}, {"refresh_request", s.RefreshRequest}} {
		if request.TokenRequest == nil {
			continue
		}
		for _, h := range request.Headers {
			if textproto.CanonicalMIMEHeaderKey(h.Name) == "Authorization" {
				return wrong(request.option+" header "+h.Name, "this field holds the client's credentials already (client_secret_basic)")
			}
		}
	}
	return nil
}

// check returns the encoding that results.
func (r *TokenRequest) check(option string, token *TokenRequest) (string, *mistake) {
	if r.Method != "" && r.Method != "GET" && r.Method != "POST" {
		return "", wrong(option, "unknown method %q; there are GET and POST", r.Method)
	}
	if !slices.Contains([]string{"", "form", "query", "json"}, r.Encoding) {
		return "", wrong(option, "unknown encoding %q; there are form, query and json", r.Encoding)
	}
	if m := r.checkBody(option); m != nil {
		return "", m
	}
	if r.Method == "GET" && r.Encoding != "" && r.Encoding != "query" {
		return "", wrong(option, "a GET has no body, so it goes with query, not with %s", r.Encoding)
	}
	seen := map[string]bool{}
	for _, h := range r.Headers {
		if m := checkRequestHeader(option, h); m != nil {
			return "", m
		}
		name := textproto.CanonicalMIMEHeaderKey(h.Name)
		if seen[name] {
			return "", wrong(option+" header "+h.Name, "this stands here twice")
		}
		seen[name] = true
	}
	inherited := r.request().Inherit(token.request())
	if r.Body != nil {
		inherited.Encoding = asBody
	}
	return inherited.Encoding, checkParams(option+" param", r.Params, inherited.Encoding)
}

// asBody is the encoding of what is written out.
const asBody = "body"

func (r *TokenRequest) checkBody(option string) *mistake {
	if r.Body == nil {
		return nil
	}
	if err := tokensource.CheckContentType(r.Body.ContentType); err != nil {
		return wrong(option+" body", "%v; write body CONTENT-TYPE TEMPLATE", err)
	}
	switch {
	case r.Body.Template == "":
		return wrong(option+" body", "the template is empty")
	case r.Encoding != "":
		return wrong(option+" body", "this takes the place of %s; write one of them", r.Encoding)
	case r.Method == "GET":
		return wrong(option+" body", "a GET has no body")
	}
	for _, h := range r.Headers {
		if textproto.CanonicalMIMEHeaderKey(h.Name) == "Content-Type" {
			return wrong(option+" header "+h.Name, "the content type stands in body")
		}
	}
	return nil
}

// bodyHolds says whether a parameter stands in a body that is written out.
func (s *Source) bodyHolds(name string) bool {
	for _, r := range []*TokenRequest{s.TokenRequest, s.RefreshRequest} {
		if r != nil && r.request().Body.Places(name) {
			return true
		}
	}
	return false
}

// isParameter says whether a request sends a parameter of that name, or would if it
// did not stand in a body.
func (s *Source) isParameter(option, name string) bool {
	refresh := option == "refresh_request"
	grant, _ := tokensource.GrantByName(s.Grant)
	own := s.TokenRequest
	if refresh {
		own = s.RefreshRequest
	}
	written := slices.Concat(s.Params, own.Params)
	slices.Reverse(written) // what comes last counts
	if i := slices.IndexFunc(written, func(p Param) bool { return p.Name == name }); i >= 0 {
		return !written[i].Omit
	}
	switch name {
	case "client_id":
		return s.ClientID != ""
	case "client_secret":
		return s.ClientSecret != ""
	case tokensource.RefreshTokenPlaceholder:
		return refresh || grant.BeginsWithRefreshToken()
	}
	return slices.Contains(s.parameters(refresh || grant.BeginsWithRefreshToken()), name)
}

// parameters are the names of what the grant sends, beside the client's.
func (s *Source) parameters(refresh bool) []string {
	if s.Grant == "custom" {
		return nil
	}
	names := []string{"grant_type"}
	if method, _ := tokensource.ClientAuthByName(s.clientAuth()); method.Algs != nil {
		names = append(names, "client_assertion", "client_assertion_type")
	}
	if len(s.Scopes) > 0 && (!refresh || s.Grant == "refresh_token") && s.Grant != "authorization_code" && s.Grant != "device_code" {
		names = append(names, "scope")
	}
	if refresh {
		return names
	}
	switch s.Grant {
	case "password":
		names = append(names, "username", "password")
	case "authorization_code":
		names = append(names, "code")
		if s.RedirectURI != "" {
			names = append(names, "redirect_uri")
		}
		if s.PKCE != "off" {
			names = append(names, "code_verifier")
		}
	case "device_code":
		names = append(names, "device_code")
	case "jwt_bearer":
		names = append(names, "assertion")
	case "token_exchange":
		names = append(names, "subject_token", "subject_token_type")
		if s.ActorToken != "" {
			names = append(names, "actor_token", "actor_token_type")
		}
	}
	return names
}

func checkRequestHeader(option string, h RequestHeader) *mistake {
	if !httpguts.ValidHeaderFieldName(h.Name) {
		// Not shown, for it may be the value.
		return &mistake{option + " header " + h.Name, option + " header: the name holds what no header field's name can; write header NAME VALUE, without a colon"}
	}
	option += " header " + h.Name
	if isFraming(h.Name) && textproto.CanonicalMIMEHeaderKey(h.Name) != "Host" {
		return wrong(option, "this belongs to the connection and cannot be set")
	}
	if !httpguts.ValidHeaderFieldValue(h.Value) {
		return wrong(option, "the value holds control characters")
	}
	return nil
}

func checkParams(option string, list []Param, encoding string) *mistake {
	seen := map[string]bool{}
	for _, p := range list {
		name := option + " " + p.Name
		if p.JSON != nil && option == "param" {
			name = "param_json " + p.Name
		}
		switch {
		case p.Name == "":
			return wrong(option, "a parameter has no name")
		case len(tokensource.Placeholders(p.Name)) > 0:
			return wrong(option, "the name of a parameter cannot be a placeholder")
		case p.JSON != nil && p.Value != "", p.Omit && (p.JSON != nil || p.Value != ""):
			return wrong(name, "this has more than one of value, json and omit")
		case p.JSON != nil && encoding != "json":
			return wrong(name, "a JSON value goes with the encoding json alone (token_request json)")
		case p.JSON != nil && !json.Valid(p.JSON):
			return wrong(name, "the value is not JSON")
		case seen[p.Name] && (encoding == "json" || encoding == asBody || p.Omit):
			return wrong(name, "this stands here twice")
		}
		seen[p.Name] = true
	}
	return nil
}

func (r *TokenRequest) places(name string) bool {
	request := r.request()
	return request.Places(name)
}
