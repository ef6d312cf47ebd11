# libvirt_pci.rb FOLDER: the devices that FOLDER's Vagrantfile gives away, as vagrant-libvirt's template for a domain writes
# them: the class that holds its settings, and the part of its template that is about such devices, are its own.
require "erb"
require "vagrant"
require "vagrant-libvirt"

environment = Vagrant::Environment.new(cwd: ARGV[0], ui_class: Vagrant::UI::Silent)
settings = environment.vagrantfile.machine_config(:default, :libvirt, nil, nil, false)[:config]
libvirt = settings.vm.get_provider_config(:libvirt)
abort "not a machine with PCI Express" unless libvirt.machine_type == "q35"
@pcis = libvirt.pcis
whole = File.read(File.join(Gem.loaded_specs["vagrant-libvirt"].full_gem_path, "lib/vagrant-libvirt/templates/domain.xml.erb"))
part = whole[/^<%-\n  @pcis\.each.*?^<%- end -%>\n/m] or abort "the template has changed"
puts ERB.new(part, trim_mode: "-").result(binding)
